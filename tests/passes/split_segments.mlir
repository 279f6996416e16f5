// RUN: fusecade opt -p split-segments %s | filecheck %s
// One more element at the end of a row: reductions of the row, and that element once.  What is read without it is the row.

// CHECK:      cascade.program @p(%x: {{.*}}, %s: {{.*}}, %v
// CHECK-NEXT:   %m = cascade.einsum [i = 8, j = n] ins(%x[i, j] : !cascade.tensor<[8, n], f32>) outs(max [i]
// CHECK:        %m_1 = cascade.einsum [i = 8] ins(%m[i] : {{.*}}, %s[0] : !cascade.tensor<[1], f32>) outs(map [i]
// CHECK:          arith.maximumf
// CHECK:        %e = cascade.einsum [i = 8, j = n] ins(%x[i, j] : {{.*}}, %m_1[i]
// CHECK:        %e_1 = cascade.einsum [i = 8] ins(%s[0] : {{.*}}, %m_1[i]
// CHECK:        %l = cascade.einsum [i = 8, j = n] ins(%e[i, j] : {{.*}}) outs(sum [i]
// CHECK:        %l_1 = cascade.einsum [i = 8] ins(%l[i] : {{.*}}, %e_1[i]
// CHECK:          arith.addf
// CHECK:        %o = cascade.einsum [i = 8, k = n] ins(%e[i, k] : {{.*}}, %v[k] : {{.*}}) outs(sum [i]
// CHECK-NOT:    n + 1
// CHECK:        cascade.return %l_1, %o
cascade.program @p(%x : !cascade.tensor<[8, n], f32>, %s : !cascade.tensor<[1], f32>, %v : !cascade.tensor<[n], f32>) -> (!cascade.tensor<[8], f32>, !cascade.tensor<[8], f32>) {
  %c = cascade.einsum [i = 8, j = n + 1] ins(%x[i, j] : !cascade.tensor<[8, n], f32>, %s[j - n] : !cascade.tensor<[1], f32>) outs(map [i, j] : !cascade.tensor<[8, n + 1], f32>) {
  ^bb0(%a0_c : f32, %a1_c : f32):
    %j_c = cascade.index j : i64
    %n_c = cascade.index n : i64
    %b_c = arith.cmpi slt, %j_c, %n_c : i64
    %r_c = arith.select %b_c, %a0_c, %a1_c : f32
    cascade.yield %r_c : f32
  }
  %m = cascade.einsum [i = 8, j = n + 1] ins(%c[i, j] : !cascade.tensor<[8, n + 1], f32>) outs(max [i] : !cascade.tensor<[8], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [i = 8, j = n + 1] ins(%c[i, j] : !cascade.tensor<[8, n + 1], f32>, %m[i] : !cascade.tensor<[8], f32>) outs(map [i, j] : !cascade.tensor<[8, n + 1], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [i = 8, j = n + 1] ins(%e[i, j] : !cascade.tensor<[8, n + 1], f32>) outs(sum [i] : !cascade.tensor<[8], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %o = cascade.einsum [i = 8, k = n] ins(%e[i, k] : !cascade.tensor<[8, n + 1], f32>, %v[k] : !cascade.tensor<[n], f32>) outs(sum [i] : !cascade.tensor<[8], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %l, %o : !cascade.tensor<[8], f32>, !cascade.tensor<[8], f32>
}
