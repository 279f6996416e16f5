// RUN: fusecade opt -p known-indices,canonicalise %s | filecheck %s
// Positions that differ by one everywhere belong to one sequence: what is left of the mask is a comparison of indices.

// CHECK:        cascade.program
// CHECK-NOT:    cascade.scan
// CHECK:        %s = cascade.einsum [i = n, j = n] ins(%x[i, j]
// CHECK-NEXT:   ^bb0(%{{.*}}: f32):
// CHECK-DAG:    cascade.index i + 3
// CHECK-DAG:    cascade.index j + 3
// CHECK:        arith.cmpi sle
// CHECK-NOT:    arith.andi
// CHECK:        cascade.return
cascade.program @p(%x: !cascade.tensor<[n, n], f32>) -> (!cascade.tensor<[n, n], f32>) {
  %p = cascade.einsum [i = n] ins() outs(map [i] : !cascade.tensor<[n], i64>) {
    %0 = cascade.index i + 3 : i64
    cascade.yield %0 : i64
  }
  %before = cascade.einsum [] ins(%p[0] : !cascade.tensor<[n], i64>) outs(map [] : !cascade.tensor<[], i64>) {
  ^bb0(%1: i64):
    %2 = arith.constant 1 : i64
    %3 = arith.subi %1, %2 : i64
    cascade.yield %3 : i64
  }
  %padded = cascade.einsum [i = n + 1] ins(%before[] : !cascade.tensor<[], i64>, %p[i - 1] : !cascade.tensor<[n], i64>) outs(map [i] : !cascade.tensor<[n + 1], i64>) {
  ^bb0(%4: i64, %5: i64):
    %6 = cascade.index i : i64
    %7 = cascade.index 1 : i64
    %8 = arith.cmpi slt, %6, %7 : i64
    %9 = arith.select %8, %4, %5 : i64
    cascade.yield %9 : i64
  }
  %odd = cascade.einsum [i = n] ins(%padded[i + 1] : !cascade.tensor<[n + 1], i64>, %padded[i] : !cascade.tensor<[n + 1], i64>) outs(map [i] : !cascade.tensor<[n], i1>) {
  ^bb0(%10: i64, %11: i64):
    %12 = arith.subi %10, %11 : i64
    %13 = arith.constant 1 : i64
    %14 = arith.cmpi ne, %12, %13 : i64
    cascade.yield %14 : i1
  }
  %count = cascade.scan [i = n] ins(%odd[i] : !cascade.tensor<[n], i1>) outs(sum [i] : !cascade.tensor<[n], i64>) over i {
  ^bb0(%15: i1):
    %16 = arith.extui %15 : i1 to i64
    cascade.yield %16 : i64
  }
  %s = cascade.einsum [i = n, j = n] ins(%x[i, j] : !cascade.tensor<[n, n], f32>, %count[i] : !cascade.tensor<[n], i64>, %count[j] : !cascade.tensor<[n], i64>, %p[i] : !cascade.tensor<[n], i64>, %p[j] : !cascade.tensor<[n], i64>) outs(map [i, j] : !cascade.tensor<[n, n], f32>) {
  ^bb0(%17: f32, %18: i64, %19: i64, %20: i64, %21: i64):
    %22 = arith.cmpi eq, %18, %19 : i64
    %23 = arith.cmpi sle, %21, %20 : i64
    %24 = arith.andi %22, %23 : i1
    %25 = arith.constant 0.0 : f32
    %26 = arith.select %24, %17, %25 : f32
    cascade.yield %26 : f32
  }
  cascade.return %s : !cascade.tensor<[n, n], f32>
}
