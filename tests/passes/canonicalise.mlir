// RUN: fusecade opt -p canonicalise %s | filecheck %s
// x * 1 and -(-x) are x; equal maps are one; a copy is what it copies; what nobody reads goes.

// CHECK:      cascade.program @p
// CHECK-NEXT:   %a = cascade.einsum [i = n, j = m] ins(%x[i, j]
// CHECK-NEXT:   bb0([[X:%[a-z0-9_]+]]: f32):
// CHECK-NEXT:     [[E:%[a-z0-9_]+]] = math.exp [[X]] : f32
// CHECK-NEXT:     cascade.yield [[E]] : f32
// CHECK-NEXT:   }
// CHECK-NEXT:   %o = cascade.einsum [i = n, j = m] ins(%a[i, j] : {{.*}}, %a[i, j]
// CHECK-NOT:    cascade.einsum
// CHECK:        cascade.return %o
cascade.program @p(%x : !cascade.tensor<[n, m], f32>) -> (!cascade.tensor<[n, m], f32>) {
  %a = cascade.einsum [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>) outs(map [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a0_a : f32):
    %o_a = arith.constant 1.0 : f32
    %p_a = arith.mulf %a0_a, %o_a : f32
    %n_a = arith.negf %p_a : f32
    %r_a = arith.negf %n_a : f32
    %e_a = math.exp %r_a : f32
    cascade.yield %e_a : f32
  }
  %b = cascade.einsum [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>) outs(map [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a0_b : f32):
    %e_b = math.exp %a0_b : f32
    cascade.yield %e_b : f32
  }
  %copy = cascade.einsum [i = n, j = m] ins(%a[i, j] : !cascade.tensor<[n, m], f32>) outs(map [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a0_copy : f32):
    cascade.yield %a0_copy : f32
  }
  %dead = cascade.einsum [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a0_dead : f32):
    cascade.yield %a0_dead : f32
  }
  %o = cascade.einsum [i = n, j = m] ins(%copy[i, j] : !cascade.tensor<[n, m], f32>, %b[i, j] : !cascade.tensor<[n, m], f32>) outs(map [i, j] : !cascade.tensor<[n, m], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.addf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[n, m], f32>
}
