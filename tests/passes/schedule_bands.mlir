// RUN: fusecade opt -p needed-reads,fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90} %s | filecheck %s
// The product with the embeddings is read at j - i: a band of it is computed for each tile.  Only tensors of rows are read.

// CHECK-LABEL: tile.kernel @k0 [b = 2 unit, i = rows grid BI, n = rows band k + rows - i - 1, k = rows loop BK
// CHECK-SAME:    (%arg0: !tile.buffer<[2, rows, 4], {{.*}}, %arg3: !tile.buffer<[rows, 4], {{.*}}, %arg1: {{.*}}, %arg2: {{.*}}) -> (%bmm: {{.*}})
// CHECK:         tile.for k from 0
// CHECK:           %arg3_1 = tile.load %arg3<[n, k1]> guard ["n", "k1"] : {{.*}} -> !tile.tile<[n, k1], f32>
// CHECK:           %mm = tile.dot %arg0_1, %arg3_1 over "k1" {{.*}} -> !tile.tile<[i, n], f32>
// CHECK:           tile.pick %mm at "n" : !tile.tile<[i, n], f32> -> !tile.tile<[i, k], f32>
cascade.program @p(%arg0: !cascade.tensor<[2, rows, 4], f32>, %arg1: !cascade.tensor<[2, rows, 4], f32>, %arg2: !cascade.tensor<[2, rows, 3], f32>, %arg3: !cascade.tensor<[rows, 4], f32>) -> (!cascade.tensor<[2, rows, 3], f32>) {
  %mm = cascade.einsum [b = 2, i = rows, n = rows, k = 4] ins(%arg0[b, i, k] : !cascade.tensor<[2, rows, 4], f32>, %arg3[n, k] : !cascade.tensor<[rows, 4], f32>) outs(sum [b, i, n] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%0: f32, %1: f32):
    %2 = arith.mulf %0, %1 : f32
    cascade.yield %2 : f32
  }
  %constant_pad_nd = cascade.einsum [d0 = 2, d1 = rows, d2 = rows + 1] ins(%mm[d0, d1, d2 - 1] : !cascade.tensor<[2, rows, rows], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows + 1], f32>) {
  ^bb0(%3: f32):
    %4 = cascade.index d2 : i64
    %5 = cascade.index 1 : i64
    %6 = arith.cmpi sge, %4, %5 : i64
    %7 = arith.constant 0.000000e+00 : f32
    %8 = arith.select %6, %3, %7 : f32
    cascade.yield %8 : f32
  }
  %bmm = cascade.einsum [b = 2, i = rows, j = rows, k = 4] ins(%arg0[b, i, k] : !cascade.tensor<[2, rows, 4], f32>, %arg1[b, j, k] : !cascade.tensor<[2, rows, 4], f32>) outs(sum [b, i, j] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%9: f32, %10: f32):
    %11 = arith.mulf %9, %10 : f32
    cascade.yield %11 : f32
  }
  %add = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%bmm[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>, %constant_pad_nd[d0, (d1 * rows + d2 + rows) floordiv (rows + 1), (d1 * rows + d2 + rows) mod (rows + 1)] : !cascade.tensor<[2, rows, rows + 1], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%12: f32, %13: f32):
    %14 = arith.addf %12, %13 : f32
    cascade.yield %14 : f32
  }
  %div = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%add[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%15: f32):
    %16 = arith.constant 2.000000e+00 : f32
    %17 = arith.divf %15, %16 : f32
    cascade.yield %17 : f32
  }
  %ones = cascade.einsum [] ins() outs(map [] : !cascade.tensor<[], i1>) {
    %18 = arith.constant true
    cascade.yield %18 : i1
  }
  %triu = cascade.einsum [d0 = rows, d1 = rows] ins(%ones[] : !cascade.tensor<[], i1>) outs(map [d0, d1] : !cascade.tensor<[rows, rows], i1>) {
  ^bb0(%19: i1):
    %20 = cascade.index d0 + 1 : i64
    %21 = cascade.index d1 : i64
    %22 = arith.cmpi sge, %21, %20 : i64
    %23 = arith.constant false
    %24 = arith.select %22, %19, %23 : i1
    cascade.yield %24 : i1
  }
  %masked_fill = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%triu[d1, d2] : !cascade.tensor<[rows, rows], i1>, %div[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%25: i1, %26: f32):
    %27 = arith.constant 0xff800000 : f32
    %28 = arith.select %25, %27, %26 : f32
    cascade.yield %28 : f32
  }
  %_softmax_max = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%masked_fill[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) outs(max [d0, d1] : !cascade.tensor<[2, rows], f32>) {
  ^bb0(%29: f32):
    cascade.yield %29 : f32
  }
  %_softmax_exp = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%masked_fill[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>, %_softmax_max[d0, d1] : !cascade.tensor<[2, rows], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%30: f32, %31: f32):
    %32 = arith.subf %30, %31 : f32
    %33 = math.exp %32 : f32
    cascade.yield %33 : f32
  }
  %_softmax_sum = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%_softmax_exp[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) outs(sum [d0, d1] : !cascade.tensor<[2, rows], f32>) {
  ^bb0(%34: f32):
    cascade.yield %34 : f32
  }
  %_softmax = cascade.einsum [d0 = 2, d1 = rows, d2 = rows] ins(%_softmax_exp[d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>, %_softmax_sum[d0, d1] : !cascade.tensor<[2, rows], f32>) outs(map [d0, d1, d2] : !cascade.tensor<[2, rows, rows], f32>) {
  ^bb0(%35: f32, %36: f32):
    %37 = arith.divf %35, %36 : f32
    cascade.yield %37 : f32
  }
  %bmm_1 = cascade.einsum [b = 2, i = rows, j = 3, k = rows] ins(%_softmax[b, i, k] : !cascade.tensor<[2, rows, rows], f32>, %arg2[b, k, j] : !cascade.tensor<[2, rows, 3], f32>) outs(sum [b, i, j] : !cascade.tensor<[2, rows, 3], f32>) {
  ^bb0(%38: f32, %39: f32):
    %40 = arith.mulf %38, %39 : f32
    cascade.yield %40 : f32
  }
  cascade.return %bmm_1 : !cascade.tensor<[2, rows, 3], f32>
}
