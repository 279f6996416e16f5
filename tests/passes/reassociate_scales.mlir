// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// What does not carry j is divided by after the sum over j.

// CHECK:      %o_part = cascade.einsum [i = 4096, f = 64, j = 4096] ins(%e[i, j] : {{.*}}, %v[j, f] : {{.*}}) outs(sum [i, f]
// CHECK:      %o = cascade.einsum [i = 4096, f = 64] ins(%o_part[i, f] : {{.*}}, %l[i] : {{.*}}) outs(map [i, f]
// CHECK:      arith.divf
// CHECK-NOT:  cascade.einsum
// CHECK:      cascade.return %o
cascade.program @scales(%e : !cascade.tensor<[4096, 4096], f32>, %l : !cascade.tensor<[4096], f32>, %v : !cascade.tensor<[4096, 64], f32>) -> (!cascade.tensor<[4096, 64], f32>) {
  %p = cascade.einsum [i = 4096, j = 4096] ins(%e[i, j] : !cascade.tensor<[4096, 4096], f32>, %l[i] : !cascade.tensor<[4096], f32>) outs(map [i, j] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %p_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %p_p : f32
  }
  %o = cascade.einsum [i = 4096, f = 64, j = 4096] ins(%p[i, j] : !cascade.tensor<[4096, 4096], f32>, %v[j, f] : !cascade.tensor<[4096, 64], f32>) outs(sum [i, f] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[4096, 64], f32>
}
