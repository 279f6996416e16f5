// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// The product is read by somebody else: it is there anyway.

// CHECK:      %w = cascade.einsum
// CHECK:      %y = cascade.einsum [i = 4096, n = 2048, c = 512] ins(%x[i, c] : {{.*}}, %w[c, n]
// CHECK:      cascade.return %w, %y
// CHECK-NOT:  reassociated
cascade.program @shared(%x : !cascade.tensor<[4096, 512], f32>, %u : !cascade.tensor<[512, 16], f32>, %v : !cascade.tensor<[16, 2048], f32>) -> (!cascade.tensor<[512, 2048], f32>, !cascade.tensor<[4096, 2048], f32>) {
  %w = cascade.einsum [c = 512, n = 2048, r = 16] ins(%u[c, r] : !cascade.tensor<[512, 16], f32>, %v[r, n] : !cascade.tensor<[16, 2048], f32>) outs(sum [c, n] : !cascade.tensor<[512, 2048], f32>) {
  ^bb0(%a0_w : f32, %a1_w : f32):
    %p_w = arith.mulf %a0_w, %a1_w : f32
    cascade.yield %p_w : f32
  }
  %y = cascade.einsum [i = 4096, n = 2048, c = 512] ins(%x[i, c] : !cascade.tensor<[4096, 512], f32>, %w[c, n] : !cascade.tensor<[512, 2048], f32>) outs(sum [i, n] : !cascade.tensor<[4096, 2048], f32>) {
  ^bb0(%a0_y : f32, %a1_y : f32):
    %p_y = arith.mulf %a0_y, %a1_y : f32
    cascade.yield %p_y : f32
  }
  cascade.return %w, %y : !cascade.tensor<[512, 2048], f32>, !cascade.tensor<[4096, 2048], f32>
}
