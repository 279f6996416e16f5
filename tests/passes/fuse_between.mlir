// RUN: fusecade opt -p fuse{target=sm_90} %s | filecheck %s
// %r is the only reader of %o and waits for %w, which waits for %t: maps between the cluster and what it grows by come along.

// CHECK:      cascade.program @p
// CHECK-NEXT:   %r = cascade.kernel @k0(
// CHECK:          %w = cascade.einsum [b = 16, i = 4096] ins(%sink_1[b] : {{.*}}, %t[b, i]
// CHECK:          cascade.return %r_1
// CHECK-NOT:    cascade.einsum
// CHECK:        cascade.return %r :
cascade.program @p(%q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>, %sink : !cascade.tensor<[16], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %m = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(max [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %t = cascade.einsum [b = 16, i = 4096] ins(%m[b, i] : !cascade.tensor<[16, 4096], f32>, %sink[b] : !cascade.tensor<[16], f32>) outs(map [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_t : f32, %a1_t : f32):
    %p_t = arith.maximumf %a0_t, %a1_t : f32
    cascade.yield %p_t : f32
  }
  %e = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %t[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(sum [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %w = cascade.einsum [b = 16, i = 4096] ins(%sink[b] : !cascade.tensor<[16], f32>, %t[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_w : f32, %a1_w : f32):
    %d_w = arith.subf %a0_w, %a1_w : f32
    %x_w = math.exp %d_w : f32
    cascade.yield %x_w : f32
  }
  %n = cascade.einsum [b = 16, i = 4096] ins(%l[b, i] : !cascade.tensor<[16, 4096], f32>, %w[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_n : f32, %a1_n : f32):
    %p_n = arith.addf %a0_n, %a1_n : f32
    cascade.yield %p_n : f32
  }
  %o = cascade.einsum [b = 16, i = 4096, c = 64, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %v[b, j, c] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, c] : !cascade.tensor<[16, 4096, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  %r = cascade.einsum [b = 16, i = 4096, c = 64] ins(%o[b, i, c] : !cascade.tensor<[16, 4096, 64], f32>, %n[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, c] : !cascade.tensor<[16, 4096, 64], f32>) {
  ^bb0(%a0_r : f32, %a1_r : f32):
    %p_r = arith.divf %a0_r, %a1_r : f32
    cascade.yield %p_r : f32
  }
  cascade.return %r : !cascade.tensor<[16, 4096, 64], f32>
}
