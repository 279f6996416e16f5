// RUN: fusecade opt -p canonicalise,fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90} %s | filecheck %s
// RUN: fusecade opt -p plan-memory --print-after-all %s | filecheck --check-prefix=MEMORY %s

// CHECK: cascade.kernel @k0
// CHECK: tile.kernel @k0
// CHECK: tile.dot
// MEMORY: // after plan-memory
// MEMORY: arena_bytes = 8192

cascade.program @row_max(%x: !cascade.tensor<[64, 64], f16>, %y: !cascade.tensor<[64, 64], f16>) -> (!cascade.tensor<[64], f32>) {
  %s = cascade.einsum [i = 64, j = 64, k = 64] ins(%x[i, k] : !cascade.tensor<[64, 64], f16>, %y[j, k] : !cascade.tensor<[64, 64], f16>) outs(sum [i, j] : !cascade.tensor<[64, 64], f16>) {
  ^bb0(%a: f32, %b: f32):
    %p = arith.mulf %a, %b : f32
    cascade.yield %p : f32
  }
  %m = cascade.einsum [i = 64, j = 64] ins(%s[i, j] : !cascade.tensor<[64, 64], f16>) outs(max [i] : !cascade.tensor<[64], f32>) {
  ^bb0(%a: f32):
    cascade.yield %a : f32
  }
  cascade.return %m : !cascade.tensor<[64], f32>
}
