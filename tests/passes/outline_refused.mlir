// RUN: fusecade opt -p fuse{target=sm_90} %s | filecheck %s
// A row sum that is read at two ranks would be computed twice: the program stays as it is.

// CHECK-NOT: cascade.kernel
// CHECK:     %r = cascade.einsum
// CHECK:     %o = cascade.einsum
cascade.program @outer(%x : !cascade.tensor<[n, m], f32>) -> (!cascade.tensor<[n, n], f32>) {
  %r = cascade.einsum [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>) outs(sum [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a0_r : f32):
    cascade.yield %a0_r : f32
  }
  %o = cascade.einsum [i = n, j = n] ins(%r[i] : !cascade.tensor<[n], f32>, %r[j] : !cascade.tensor<[n], f32>) outs(map [i, j] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[n, n], f32>
}
