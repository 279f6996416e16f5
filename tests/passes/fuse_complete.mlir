// RUN: fusecade opt -p "fuse{target=sm_90 complete=true}" %s | filecheck %s
// Nothing here fuses: a product and a sum of another tensor become kernels, the latter with the map
// that only it reads.

// CHECK-LABEL: cascade.program @apart
// CHECK:       %p = cascade.kernel @k1(
// CHECK:         cascade.einsum [i = 64, j = 32, d = 16]
// CHECK:       %t = cascade.kernel @k0(%x_1 = %x
// CHECK:         math.sin
// CHECK:         outs(sum [i] :
// CHECK:       } attributes
// CHECK-NOT:   cascade.einsum
// CHECK:       cascade.return %p, %t
cascade.program @apart(%a : !cascade.tensor<[64, 16], f32>, %b : !cascade.tensor<[16, 32], f32>, %x : !cascade.tensor<[64, 8], f32>) -> (!cascade.tensor<[64, 32], f32>, !cascade.tensor<[64], f32>) {
  %p = cascade.einsum [i = 64, j = 32, d = 16] ins(%a[i, d] : !cascade.tensor<[64, 16], f32>, %b[d, j] : !cascade.tensor<[16, 32], f32>) outs(sum [i, j] : !cascade.tensor<[64, 32], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %p_s = arith.mulf %a0_p, %a1_p : f32
    cascade.yield %p_s : f32
  }
  %s = cascade.einsum [i = 64, c = 8] ins(%x[i, c] : !cascade.tensor<[64, 8], f32>) outs(map [i, c] : !cascade.tensor<[64, 8], f32>) {
  ^bb0(%a0_s : f32):
    %s_s = math.sin %a0_s : f32
    cascade.yield %s_s : f32
  }
  %t = cascade.einsum [i = 64, c = 8] ins(%s[i, c] : !cascade.tensor<[64, 8], f32>) outs(sum [i] : !cascade.tensor<[64], f32>) {
  ^bb0(%a0_t : f32):
    cascade.yield %a0_t : f32
  }
  cascade.return %p, %t : !cascade.tensor<[64, 32], f32>, !cascade.tensor<[64], f32>
}
