// RUN: fusecade opt -p "fuse{target=sm_90 always=true},release-scales,canonicalise" %s | filecheck %s
// The operand is multiplied as it is stored, in 16 bits; its factor is applied to the product.

// CHECK:      cascade.kernel
// CHECK:      %s = cascade.einsum
// CHECK-NOT:  arith.constant
// CHECK:        arith.mulf
// CHECK:      ins(%s[i, j]
// CHECK:        arith.constant 0.125 : f32
// CHECK:        arith.mulf
cascade.program @scores(%q : !cascade.tensor<[4096, 64], bf16>, %k : !cascade.tensor<[4096, 64], bf16>) -> (!cascade.tensor<[4096], f32>) {
  %a = cascade.einsum [i = 4096, d = 64] ins(%q[i, d] : !cascade.tensor<[4096, 64], bf16>) outs(map [i, d] : !cascade.tensor<[4096, 64], bf16>) {
  ^bb0(%x : f32):
    %c = arith.constant 0.125 : f32
    %y = arith.mulf %x, %c : f32
    cascade.yield %y : f32
  }
  %s = cascade.einsum [i = 4096, j = 4096, d = 64] ins(%a[i, d] : !cascade.tensor<[4096, 64], bf16>, %k[j, d] : !cascade.tensor<[4096, 64], bf16>) outs(sum [i, j] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%x : f32, %y : f32):
    %p = arith.mulf %x, %y : f32
    cascade.yield %p : f32
  }
  %m = cascade.einsum [i = 4096, j = 4096] ins(%s[i, j] : !cascade.tensor<[4096, 4096], f32>) outs(max [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%x : f32):
    cascade.yield %x : f32
  }
  cascade.return %m : !cascade.tensor<[4096], f32>
}
