// RUN: fusecade opt -p "fuse{target=sm_90 always=true},inline-maps" %s | filecheck %s
// Two maps, one behind the other, are one.

// CHECK:      cascade.kernel
// CHECK:        arith.mulf
// CHECK-NEXT:   arith.addf
// CHECK-NEXT:   cascade.yield
// CHECK:        outs(max [i]
cascade.program @chain(%x : !cascade.tensor<[4096, 4096], f32>, %y : !cascade.tensor<[4096, 4096], f32>) -> (!cascade.tensor<[4096], f32>) {
  %a = cascade.einsum [i = 4096, j = 4096] ins(%x[i, j] : !cascade.tensor<[4096, 4096], f32>, %y[i, j] : !cascade.tensor<[4096, 4096], f32>) outs(map [i, j] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%u : f32, %v : f32):
    %p = arith.mulf %u, %v : f32
    cascade.yield %p : f32
  }
  %b = cascade.einsum [i = 4096, j = 4096] ins(%a[i, j] : !cascade.tensor<[4096, 4096], f32>, %y[i, j] : !cascade.tensor<[4096, 4096], f32>) outs(map [i, j] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%u : f32, %v : f32):
    %p = arith.addf %u, %v : f32
    cascade.yield %p : f32
  }
  %m = cascade.einsum [i = 4096, j = 4096] ins(%b[i, j] : !cascade.tensor<[4096, 4096], f32>) outs(max [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%u : f32):
    cascade.yield %u : f32
  }
  cascade.return %m : !cascade.tensor<[4096], f32>
}
