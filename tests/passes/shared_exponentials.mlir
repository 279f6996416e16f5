// RUN: fusecade opt -p fuse{target=sm_90},repair{target=sm_90} %s | filecheck %s
// Masked elements are no exponentials: 20 · log2 e is one factor, and exp is exp2.

// CHECK:      %x_exp = cascade.einsum {{.*}} outs(map [b, i, j]
// CHECK-NOT:  0xff800000
// CHECK:        [[T:%[a-z0-9_]+]] = math.tanh
// CHECK:        [[C:%[a-z0-9_]+]] = arith.constant 28.8539{{[0-9]*}} : f32
// CHECK:        [[Z:%[a-z0-9_]+]] = arith.mulf [[T]], [[C]] : f32
// CHECK:        [[E:%[a-z0-9_]+]] = math.exp2 [[Z]] : f32
// CHECK:        arith.select {{.*}}, [[E]], {{.*}} : f32
// CHECK:      %l_a0 = cascade.einsum {{.*}} ins(%x_exp[b, i, j]
// CHECK-NOT:  math.exp
// CHECK:      %o_a0 = cascade.einsum {{.*}} ins(%x_exp[b, i, j]
cascade.program @capped_and_masked(%q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>, %t : !cascade.tensor<[4096, 4096], i1>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %x = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %t[i, j] : !cascade.tensor<[4096, 4096], i1>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_x : f32, %a1_x : i1):
    %c_x = arith.constant 20.0 : f32
    %d_x = arith.divf %a0_x, %c_x : f32
    %t_x = math.tanh %d_x : f32
    %p_x = arith.mulf %t_x, %c_x : f32
    %n_x = arith.constant 0xff800000 : f32
    %w_x = arith.select %a1_x, %p_x, %n_x : f32
    cascade.yield %w_x : f32
  }
  %m = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%x[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(max [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%x[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %m[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(sum [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %p = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %l[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %d_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %d_p : f32
  }
  %o = cascade.einsum [b = 16, i = 4096, c = 64, j = 4096] ins(%p[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %v[b, j, c] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, c] : !cascade.tensor<[16, 4096, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[16, 4096, 64], f32>
}
