// RUN: fusecade opt -p nest-reductions %s | filecheck %s
// A sum over two ranks is a sum of sums, the contraction first.

// CHECK:      [[INNER:%[a-z0-9_]+]] = cascade.einsum {{.*}}outs(sum [i, h] : {{.*}}f32>)
// CHECK:        arith.mulf
// CHECK:      cascade.einsum [i = 32, h = 8] ins([[INNER]][i, h]{{.*}}outs(sum [i]
// CHECK-NEXT: ^bb0
// CHECK-NEXT:   cascade.yield
cascade.program @projection(%a : !cascade.tensor<[32, 8, 64], f32>, %w : !cascade.tensor<[8, 64], f32>) -> (!cascade.tensor<[32], f32>) {
  %y = cascade.einsum [i = 32, h = 8, d = 64] ins(%a[i, h, d] : !cascade.tensor<[32, 8, 64], f32>, %w[h, d] : !cascade.tensor<[8, 64], f32>) outs(sum [i] : !cascade.tensor<[32], f32>) {
  ^bb0(%x : f32, %z : f32):
    %p = arith.mulf %x, %z : f32
    cascade.yield %p : f32
  }
  cascade.return %y : !cascade.tensor<[32], f32>
}
