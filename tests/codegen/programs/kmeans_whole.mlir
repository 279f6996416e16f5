// RUN: fusecade opt %s
// The nearest of few centroids, which every program holds whole: no state is carried, and only the index is kept.
tile.kernel @kmeans_whole [i = n grid BI, j = 1024 whole, d = 64 whole] grid (i) params {BI = 512} (
  %x : !tile.buffer<[n, 64], [64, 1], f32>,
  %c : !tile.buffer<[1024, 64], [64, 1], f32>,
  %c2 : !tile.buffer<[1024], [1], f32>
) -> (%o : !tile.buffer<[n], [1], i64>) {
  %x_1 = tile.load %x<[i, d]> guard ["i"] : !tile.buffer<[n, 64], [64, 1], f32> -> !tile.tile<[i, d], f32>
  %minus_two = tile.fill -2.0 : f32 -> !tile.tile<[], f32>
  %x_2 = tile.map "mul"(%x_1, %minus_two) : (!tile.tile<[i, d], f32>, !tile.tile<[], f32>) -> !tile.tile<[i, d], f32>
  %c_1 = tile.load %c<[j, d]> guard [] : !tile.buffer<[1024, 64], [64, 1], f32> -> !tile.tile<[j, d], f32>
  %norm = tile.load %c2<[j]> guard [] : !tile.buffer<[1024], [1], f32> -> !tile.tile<[j], f32>
  %xc = tile.dot %x_2, %c_1 over "d" precision "ieee" : !tile.tile<[i, d], f32>, !tile.tile<[j, d], f32> -> !tile.tile<[i, j], f32>
  %dist = tile.map "add"(%xc, %norm) : (!tile.tile<[i, j], f32>, !tile.tile<[j], f32>) -> !tile.tile<[i, j], f32>
  %low, %at = tile.reduce "argmin" %dist over "j" : (!tile.tile<[i, j], f32>) -> (!tile.tile<[i], f32>, !tile.tile<[i], i64>)
  tile.store %at, %o<[i]> guard ["i"] : !tile.tile<[i], i64>, !tile.buffer<[n], [1], i64>
  tile.return
}
