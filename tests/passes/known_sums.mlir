// RUN: fusecade opt -p known-sums %s | filecheck %s
// r is the sum over k of w d, where d = a v is a product of its own; o holds the sum of w v, so r is a sum over features.

// CHECK:      cascade.program @p(%w
// CHECK:        %o = cascade.einsum [i = n, f = 8, k = n]
// CHECK-NOT:    %d = cascade.einsum
// CHECK:        [[T:%[0-9]+]] = cascade.einsum [i = n, g = 8] ins(%a[i, g] : {{.*}}, %o[i, g] : {{.*}}) outs(map [i, g]
// CHECK:          arith.mulf
// CHECK:        %r = cascade.einsum [i = n, g = 8] ins([[T]][i, g] : {{.*}}) outs(sum [i]
// CHECK:        cascade.return %o, %r
cascade.program @p(%w : !cascade.tensor<[n, n], f32>, %v : !cascade.tensor<[n, 8], f32>, %a : !cascade.tensor<[n, 8], f32>) -> (!cascade.tensor<[n, 8], f32>, !cascade.tensor<[n], f32>) {
  %o = cascade.einsum [i = n, f = 8, k = n] ins(%w[i, k] : !cascade.tensor<[n, n], f32>, %v[k, f] : !cascade.tensor<[n, 8], f32>) outs(sum [i, f] : !cascade.tensor<[n, 8], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %m_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %m_o : f32
  }
  %d = cascade.einsum [i = n, k = n, g = 8] ins(%a[i, g] : !cascade.tensor<[n, 8], f32>, %v[k, g] : !cascade.tensor<[n, 8], f32>) outs(sum [i, k] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%a0_d : f32, %a1_d : f32):
    %m_d = arith.mulf %a0_d, %a1_d : f32
    cascade.yield %m_d : f32
  }
  %p = cascade.einsum [i = n, k = n] ins(%w[i, k] : !cascade.tensor<[n, n], f32>, %d[i, k] : !cascade.tensor<[n, n], f32>) outs(map [i, k] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %m_p = arith.mulf %a0_p, %a1_p : f32
    cascade.yield %m_p : f32
  }
  %r = cascade.einsum [i = n, k = n] ins(%p[i, k] : !cascade.tensor<[n, n], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a0_r : f32):
    cascade.yield %a0_r : f32
  }
  cascade.return %o, %r : !cascade.tensor<[n, 8], f32>, !cascade.tensor<[n], f32>
}
