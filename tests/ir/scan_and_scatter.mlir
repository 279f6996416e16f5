// RUN: fusecade opt -p canonicalise %s | filecheck %s

// A decayed running sum, and its rows collected by an index; what nobody reads goes away.
// CHECK: cascade.program @collect
// CHECK-NEXT: cascade.scan [t = n, d = 64]
// CHECK-SAME: outs(linear [t, d] : !cascade.tensor<[n, 64], f32>) over t {
// CHECK-NOT: cascade.scan
// CHECK: cascade.scatter [t = n, d = 64]
// CHECK-SAME: at(%ids[t] : !cascade.tensor<[n], i64>) outs(sum [at0, d] : !cascade.tensor<[16, 64], f32>) init %start {
// CHECK-NOT: cascade.scatter
cascade.program @collect(%x : !cascade.tensor<[n, 64], f32>, %a : !cascade.tensor<[64], f32>, %ids : !cascade.tensor<[n], i64>, %start : !cascade.tensor<[16, 64], f32>) -> (!cascade.tensor<[16, 64], f32>) {
  %h = cascade.scan [t = n, d = 64] ins(%a[d] : !cascade.tensor<[64], f32>, %x[t, d] : !cascade.tensor<[n, 64], f32>)
      outs(linear [t, d] : !cascade.tensor<[n, 64], f32>) over t {
  ^bb0(%decay : f32, %new : f32):
    cascade.yield %decay, %new : f32, f32
  }
  %dead = cascade.scan [t = n, d = 64] ins(%x[t, d] : !cascade.tensor<[n, 64], f32>)
      outs(sum [t, d] : !cascade.tensor<[n, 64], f32>) over t exclusive reversed {
  ^bb0(%e : f32):
    cascade.yield %e : f32
  }
  %y = cascade.scatter [t = n, d = 64] ins(%h[t, d] : !cascade.tensor<[n, 64], f32>) at(%ids[t] : !cascade.tensor<[n], i64>)
      outs(sum [at0, d] : !cascade.tensor<[16, 64], f32>) init %start {
  ^bb0(%e : f32):
    cascade.yield %e : f32
  }
  %unread = cascade.scatter [t = n, d = 64] ins(%h[t, d] : !cascade.tensor<[n, 64], f32>) at(%ids[t] : !cascade.tensor<[n], i64>)
      outs(max [at0, d] : !cascade.tensor<[16, 64], f32>) {
  ^bb0(%e : f32):
    cascade.yield %e : f32
  }
  cascade.return %y : !cascade.tensor<[16, 64], f32>
}
