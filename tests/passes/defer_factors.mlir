// RUN: fusecade opt -p "fuse{target=sm_90 always=true},defer-factors,inline-maps,canonicalise" %s | filecheck %s
// The scale of rows is applied to the product, in full precision; the weights of the features stay with the operand.

// CHECK:      cascade.kernel
// CHECK:      %y = cascade.einsum [i = 4096, k = 256] ins(%x_1[i, k] : {{.*}}, %g_1[k]
// CHECK-NOT:  %h_1
// CHECK:      cascade.einsum [i = 4096, n = 128, k = 256] ins(%y[i, k]
// CHECK-SAME: outs(sum [i, n] : !cascade.tensor<[4096, 128], f32>)
// CHECK:      cascade.einsum [i = 4096, n = 128] ins(%r_1[i, n] : {{.*}}, %h_1[i]
// CHECK-SAME: outs(map [i, n] : !cascade.tensor<[4096, 128], bf16>)
// CHECK:      certificates = ["Σ_k y_scale[i]*y[i, k]*w[k, n] = y_scale[i]*Σ_k y[i, k]*w[k, n]"]
cascade.program @scaled(%x : !cascade.tensor<[4096, 256], bf16>, %h : !cascade.tensor<[4096], f32>, %g : !cascade.tensor<[256], bf16>, %w : !cascade.tensor<[256, 128], bf16>) -> (!cascade.tensor<[4096, 128], bf16>) {
  %y = cascade.einsum [i = 4096, k = 256] ins(%x[i, k] : !cascade.tensor<[4096, 256], bf16>, %h[i] : !cascade.tensor<[4096], f32>, %g[k] : !cascade.tensor<[256], bf16>) outs(map [i, k] : !cascade.tensor<[4096, 256], bf16>) {
  ^bb0(%a : f32, %b : f32, %c : f32):
    %d = arith.divf %a, %b : f32
    %e = arith.mulf %d, %c : f32
    cascade.yield %e : f32
  }
  %r = cascade.einsum [i = 4096, n = 128, k = 256] ins(%y[i, k] : !cascade.tensor<[4096, 256], bf16>, %w[k, n] : !cascade.tensor<[256, 128], bf16>) outs(sum [i, n] : !cascade.tensor<[4096, 128], bf16>) {
  ^bb0(%a : f32, %b : f32):
    %p = arith.mulf %a, %b : f32
    cascade.yield %p : f32
  }
  cascade.return %r : !cascade.tensor<[4096, 128], bf16>
}
