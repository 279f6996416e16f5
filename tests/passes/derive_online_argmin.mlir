// RUN: fusecade opt -p fuse{target=sm_90},repair{target=sm_90} %s | filecheck %s
// What is added to all elements of a row does not move the place of the smallest: the norms of x are not computed,
// and the smallest of -x.c is the largest of x.c.

// CHECK:     cascade.kernel
// CHECK-NOT: outs(sum [i] :
// CHECK:     %xc = cascade.einsum
// CHECK:     %o_a0 = cascade.einsum [i = 65536, j = 1024] ins(%xc[i, j] : {{.*}}) outs(argmax [i] : !cascade.tensor<[65536], i64>)
cascade.program @nearest(%x : !cascade.tensor<[65536, 64], f32>, %c : !cascade.tensor<[1024, 64], f32>) -> (!cascade.tensor<[65536], i64>) {
  %x2 = cascade.einsum [n = 65536, d = 64] ins(%x[n, d] : !cascade.tensor<[65536, 64], f32>) outs(sum [n] : !cascade.tensor<[65536], f32>) {
  ^bb0(%a0_x2 : f32):
    %p_x2 = arith.mulf %a0_x2, %a0_x2 : f32
    cascade.yield %p_x2 : f32
  }
  %xc = cascade.einsum [i = 65536, j = 1024, d = 64] ins(%x[i, d] : !cascade.tensor<[65536, 64], f32>, %c[j, d] : !cascade.tensor<[1024, 64], f32>) outs(sum [i, j] : !cascade.tensor<[65536, 1024], f32>) {
  ^bb0(%a0_xc : f32, %a1_xc : f32):
    %p_xc = arith.mulf %a0_xc, %a1_xc : f32
    cascade.yield %p_xc : f32
  }
  %w = cascade.einsum [i = 65536, j = 1024] ins(%x2[i] : !cascade.tensor<[65536], f32>, %xc[i, j] : !cascade.tensor<[65536, 1024], f32>) outs(map [i, j] : !cascade.tensor<[65536, 1024], f32>) {
  ^bb0(%a0_w : f32, %a1_w : f32):
    %p_w = arith.subf %a0_w, %a1_w : f32
    cascade.yield %p_w : f32
  }
  %o = cascade.einsum [i = 65536, j = 1024] ins(%w[i, j] : !cascade.tensor<[65536, 1024], f32>) outs(argmin [i] : !cascade.tensor<[65536], i64>) {
  ^bb0(%a0_o : f32):
    cascade.yield %a0_o : f32
  }
  cascade.return %o : !cascade.tensor<[65536], i64>
}
