// RUN: fusecade opt %s
// The nearest centroid of each row, argmin_j |c_j|^2 - 2 x_i . c_j: the first of equals.
tile.kernel @kmeans [i = n grid BI, j = m loop BJ, d = 64 whole] grid (i) params {BI = 128, BJ = 128, num_warps = 4} (
  %x : !tile.buffer<[n, 64], [64, 1], f32>,
  %c : !tile.buffer<[m, 64], [64, 1], f32>,
  %c2 : !tile.buffer<[m], [1], f32>
) -> (%o : !tile.buffer<[n], [1], i64>) {
  %x_1 = tile.load %x<[i, d]> guard ["i", "d"] : !tile.buffer<[n, 64], [64, 1], f32> -> !tile.tile<[i, d], f32>
  %minus_two = tile.fill -2.0 : f32 -> !tile.tile<[], f32>
  %x_2 = tile.map "mul"(%x_1, %minus_two) : (!tile.tile<[i, d], f32>, !tile.tile<[], f32>) -> !tile.tile<[i, d], f32>
  %low0 = tile.fill 0x7F800000 : f32 -> !tile.tile<[i], f32>
  %at0 = tile.fill 0 : i64 -> !tile.tile<[i], i64>
  %low, %at = tile.for j from 0 to m (%low_i = %low0 : !tile.tile<[i], f32>, %at_i = %at0 : !tile.tile<[i], i64>) {
    %c_1 = tile.load %c<[j, d]> guard ["j", "d"] : !tile.buffer<[m, 64], [64, 1], f32> -> !tile.tile<[j, d], f32>
    %norm = tile.load %c2<[j]> guard ["j"] : !tile.buffer<[m], [1], f32> -> !tile.tile<[j], f32>
    %xc = tile.dot %x_2, %c_1 over "d" precision "ieee" : !tile.tile<[i, d], f32>, !tile.tile<[j, d], f32> -> !tile.tile<[i, j], f32>
    %dist = tile.map "add"(%xc, %norm) : (!tile.tile<[i, j], f32>, !tile.tile<[j], f32>) -> !tile.tile<[i, j], f32>
    %dist_1 = tile.pad %dist over ["j"] with 0x7F800000 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
    %near, %near_at = tile.reduce "argmin" %dist_1 over "j" : (!tile.tile<[i, j], f32>) -> (!tile.tile<[i], f32>, !tile.tile<[i], i64>)
    %less = tile.map "lt"(%near, %low_i) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], i1>
    %is_nan = tile.map "ne"(%near, %near) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], i1>
    %was_not = tile.map "eq"(%low_i, %low_i) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], i1>
    %first_nan = tile.map "and"(%is_nan, %was_not) : (!tile.tile<[i], i1>, !tile.tile<[i], i1>) -> !tile.tile<[i], i1>
    %takes = tile.map "or"(%less, %first_nan) : (!tile.tile<[i], i1>, !tile.tile<[i], i1>) -> !tile.tile<[i], i1>
    %low_new = tile.map "select"(%takes, %near, %low_i) : (!tile.tile<[i], i1>, !tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %at_new = tile.map "select"(%takes, %near_at, %at_i) : (!tile.tile<[i], i1>, !tile.tile<[i], i64>, !tile.tile<[i], i64>) -> !tile.tile<[i], i64>
    tile.yield %low_new, %at_new : !tile.tile<[i], f32>, !tile.tile<[i], i64>
  }
  tile.store %at, %o<[i]> guard ["i"] : !tile.tile<[i], i64>, !tile.buffer<[n], [1], i64>
  tile.return
}
