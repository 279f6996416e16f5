// RUN: fusecade opt -p fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90} %s | filecheck %s
// 144 tiles of rows on 132 multiprocessors would be two waves: their 9,216 steps are cut into 132 shares of 70, and a tile
// into at most two pieces, the second of which belongs to the next share.  What pieces leave is merged as parts are.

// CHECK:      tile.kernel @k0_part [{{.*}}j = 8192 loop BJ, {{.*}}p = SPLIT_J unit] grid (b, i, p)
// CHECK-SAME:   SHARE_J = 70, SPLIT_J = 2,
// CHECK-SAME:   share p each SHARE_J of max(1, 8192 ceildiv BJ)
// CHECK:        tile.for j from max(0, BJ * (SHARE_J * p - ahead_p)) to min(8192, BJ * (SHARE_J * p + SHARE_J - ahead_p))
// CHECK:        tile.store {{.*}}, %m<[p, b, i]>
// CHECK:      tile.kernel @k0_merge [{{.*}}p = 2 whole]
// CHECK:        tile.load %m_parts<[p, b, i]>
// CHECK-NOT:    tile.for
cascade.program @attention(%q : !cascade.tensor<[9, 2048, 128], f16>, %k : !cascade.tensor<[9, 8192, 128], f16>, %v : !cascade.tensor<[9, 8192, 128], f16>) -> (!cascade.tensor<[9, 2048, 128], f32>) {
  %s = cascade.einsum [b = 9, i = 2048, j = 8192, d = 128] ins(%q[b, i, d] : !cascade.tensor<[9, 2048, 128], f16>, %k[b, j, d] : !cascade.tensor<[9, 8192, 128], f16>) outs(sum [b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %m = cascade.einsum [b = 9, i = 2048, j = 8192] ins(%s[b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>) outs(max [b, i] : !cascade.tensor<[9, 2048], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [b = 9, i = 2048, j = 8192] ins(%s[b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>, %m[b, i] : !cascade.tensor<[9, 2048], f32>) outs(map [b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [b = 9, i = 2048, j = 8192] ins(%e[b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>) outs(sum [b, i] : !cascade.tensor<[9, 2048], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %p = cascade.einsum [b = 9, i = 2048, j = 8192] ins(%e[b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>, %l[b, i] : !cascade.tensor<[9, 2048], f32>) outs(map [b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %d_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %d_p : f32
  }
  %o = cascade.einsum [b = 9, i = 2048, c = 128, j = 8192] ins(%p[b, i, j] : !cascade.tensor<[9, 2048, 8192], f32>, %v[b, j, c] : !cascade.tensor<[9, 8192, 128], f16>) outs(sum [b, i, c] : !cascade.tensor<[9, 2048, 128], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[9, 2048, 128], f32>
}
