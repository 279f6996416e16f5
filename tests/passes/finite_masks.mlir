// RUN: fusecade opt -p finite-masks %s | filecheck %s
// The most negative number, added where a key comes later: the row has its own key, next to which the others count for nothing.

// CHECK:        %x = cascade.einsum
// CHECK-NEXT:   ^bb0([[S:%[0-9]+]]: f32, %{{[0-9]+}}: f32):
// CHECK:        cascade.index i - k
// CHECK:        arith.cmpi sge
// CHECK:        0xff800000
// CHECK:        arith.select %{{.*}}, [[S]], %
cascade.program @p(%s: !cascade.tensor<[n, n], f32>) -> (!cascade.tensor<[n, n], f32>) {
  %mask = cascade.einsum [i = n, k = n] ins() outs(map [i, k] : !cascade.tensor<[n, n], f32>) {
    %0 = cascade.index i : i64
    %1 = cascade.index k : i64
    %2 = arith.cmpi sle, %1, %0 : i64
    %3 = arith.constant 0.0 : f32
    %4 = arith.constant -3.40282347e+38 : f32
    %5 = arith.select %2, %3, %4 : f32
    cascade.yield %5 : f32
  }
  %x = cascade.einsum [i = n, k = n] ins(%s[i, k] : !cascade.tensor<[n, n], f32>, %mask[i, k] : !cascade.tensor<[n, n], f32>) outs(map [i, k] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%6: f32, %7: f32):
    %8 = arith.addf %6, %7 : f32
    cascade.yield %8 : f32
  }
  %m = cascade.einsum [i = n, k = n] ins(%x[i, k] : !cascade.tensor<[n, n], f32>) outs(max [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%9: f32):
    cascade.yield %9 : f32
  }
  %e = cascade.einsum [i = n, k = n] ins(%x[i, k] : !cascade.tensor<[n, n], f32>, %m[i] : !cascade.tensor<[n], f32>) outs(map [i, k] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%10: f32, %11: f32):
    %12 = arith.subf %10, %11 : f32
    %13 = math.exp %12 : f32
    cascade.yield %13 : f32
  }
  cascade.return %e : !cascade.tensor<[n, n], f32>
}
