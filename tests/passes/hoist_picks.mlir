// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// The logit of each row's label is picked, and the loss is made of what was picked; there are no moments and no anchors.

// CHECK-NOT:  k_first
// CHECK:      %m, %l_a0 = cascade.online
// CHECK:      [[P:%loss[_0-9]*]] = cascade.einsum [i = 4096, k = 32000] ins({{.*}}%x[i, k] : {{.*}}) outs(sum [i]
// CHECK:        %k_o = cascade.index k : i64
// CHECK-NEXT:   %h_o = arith.cmpi eq, %k_o
// CHECK-NEXT:   [[ZERO:%[0-9]+]] = arith.constant
// CHECK-NEXT:   arith.select %h_o, %{{[0-9]+}}, [[ZERO]]
// CHECK:      cascade.einsum [i = 4096] ins([[P]][i] {{.*}} outs(map [i]
// CHECK:        %d_g = arith.subf
// CHECK-NEXT:   %n_g = math.log
// CHECK-NEXT:   [[Y:%y_g]] = arith.subf %d_g, %n_g
// CHECK:        arith.cmpi sge
// CHECK-NEXT:   arith.cmpi slt
// CHECK:        arith.select %{{[0-9]+}}, [[Y]]
// CHECK:      certificates = ["loss: {{.*}} [k = t] g(x, d) = [0 <= t < n] g(
cascade.program @head(%h : !cascade.tensor<[4096, 64], f32>, %w : !cascade.tensor<[32000, 64], f32>, %t : !cascade.tensor<[4096], i64>) -> (!cascade.tensor<[4096], f32>) {
  %x = cascade.einsum [i = 4096, k = 32000, d = 64] ins(%h[i, d] : !cascade.tensor<[4096, 64], f32>, %w[k, d] : !cascade.tensor<[32000, 64], f32>) outs(sum [i, k] : !cascade.tensor<[4096, 32000], f32>) {
  ^bb0(%a0_x : f32, %a1_x : f32):
    %p_x = arith.mulf %a0_x, %a1_x : f32
    cascade.yield %p_x : f32
  }
  %m = cascade.einsum [i = 4096, k = 32000] ins(%x[i, k] : !cascade.tensor<[4096, 32000], f32>) outs(max [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %l = cascade.einsum [i = 4096, k = 32000] ins(%x[i, k] : !cascade.tensor<[4096, 32000], f32>, %m[i] : !cascade.tensor<[4096], f32>) outs(sum [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_l : f32, %a1_l : f32):
    %d_l = arith.subf %a0_l, %a1_l : f32
    %e_l = math.exp %d_l : f32
    cascade.yield %e_l : f32
  }
  %g = cascade.einsum [i = 4096, k = 32000] ins(%x[i, k] : !cascade.tensor<[4096, 32000], f32>, %m[i] : !cascade.tensor<[4096], f32>, %l[i] : !cascade.tensor<[4096], f32>) outs(map [i, k] : !cascade.tensor<[4096, 32000], f32>) {
  ^bb0(%a0_g : f32, %a1_g : f32, %a2_g : f32):
    %d_g = arith.subf %a0_g, %a1_g : f32
    %n_g = math.log %a2_g : f32
    %y_g = arith.subf %d_g, %n_g : f32
    cascade.yield %y_g : f32
  }
  %loss = cascade.einsum [i = 4096, k = 32000] ins(%g[i, k] : !cascade.tensor<[4096, 32000], f32>, %t[i] : !cascade.tensor<[4096], i64>) outs(sum [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_o : f32, %a1_o : i64):
    %k_o = cascade.index k : i64
    %h_o = arith.cmpi eq, %k_o, %a1_o : i64
    %z_o = arith.constant 0.0 : f32
    %c_o = arith.select %h_o, %a0_o, %z_o : f32
    cascade.yield %c_o : f32
  }
  cascade.return %loss : !cascade.tensor<[4096], f32>
}
