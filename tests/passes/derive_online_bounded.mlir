// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// 20 tanh(s / 20) is bounded, and o does not depend on what the exponents are measured from: no maximum, nothing moves.

// CHECK:      %x = cascade.einsum
// CHECK-NOT:  outs(max
// CHECK:      %l_a0 = cascade.einsum {{.*}} ins(%x[b, i, j] : {{.*}}) outs(sum [b, i] :
// CHECK-NEXT:   bb0([[X:%[0-9]+]]: f32):
// CHECK-NEXT:   [[E:%[0-9]+]] = math.exp [[X]] : f32
// CHECK-NEXT:   cascade.yield [[E]] : f32
// CHECK:      %o_a0 = cascade.einsum {{.*}} outs(sum [b, i, c] :
// CHECK:        math.exp
// CHECK-NOT:  cascade.online
// CHECK:      %o_1 = cascade.einsum [b = 16, i = 4096, c = 64] ins(%l_a0[b, i] : {{.*}}, %o_a0[b, i, c]
// CHECK:        arith.divf
// CHECK:      certificates = ["m: d/dm_s of o is 0 when {{.*}}exponents stay within -20 and 20 with m = 0
// CHECK-SAME: "  gauge    0 in the place of m: the result does not depend on it
cascade.program @capped(%q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %x = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_x : f32):
    %c_x = arith.constant 20.0 : f32
    %d_x = arith.divf %a0_x, %c_x : f32
    %t_x = math.tanh %d_x : f32
    %p_x = arith.mulf %t_x, %c_x : f32
    cascade.yield %p_x : f32
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
