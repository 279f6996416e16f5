// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// The Kronecker product of a and b is never built: each factor is applied to its own digit of the index.

// CHECK-NOT:  outs(map
// CHECK:      cascade.einsum [j = 64, n = 8, h = 64, k = 64] ins(%b[j, k] : {{.*}}, %x[h * 64 + k, n]
// CHECK:      cascade.einsum [i = 64, j = 64, n = 8, h = 64] ins(%a[i, h]
// CHECK-NOT:  cascade.einsum
// CHECK:      cascade.return
cascade.program @kronecker(%a : !cascade.tensor<[64, 64], f32>, %b : !cascade.tensor<[64, 64], f32>, %x : !cascade.tensor<[4096, 8], f32>) -> (!cascade.tensor<[64, 64, 8], f32>) {
  %m = cascade.einsum [i = 64, j = 64, h = 64, k = 64] ins(%a[i, h] : !cascade.tensor<[64, 64], f32>, %b[j, k] : !cascade.tensor<[64, 64], f32>) outs(map [i, j, h, k] : !cascade.tensor<[64, 64, 64, 64], f32>) {
  ^bb0(%a0_m : f32, %a1_m : f32):
    %p_m = arith.mulf %a0_m, %a1_m : f32
    cascade.yield %p_m : f32
  }
  %y = cascade.einsum [i = 64, j = 64, n = 8, h = 64, k = 64] ins(%m[i, j, h, k] : !cascade.tensor<[64, 64, 64, 64], f32>, %x[h * 64 + k, n] : !cascade.tensor<[4096, 8], f32>) outs(sum [i, j, n] : !cascade.tensor<[64, 64, 8], f32>) {
  ^bb0(%a0_y : f32, %a1_y : f32):
    %p_y = arith.mulf %a0_y, %a1_y : f32
    cascade.yield %p_y : f32
  }
  cascade.return %y : !cascade.tensor<[64, 64, 8], f32>
}
