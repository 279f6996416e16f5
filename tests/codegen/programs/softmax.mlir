// RUN: fusecade opt %s
// The softmax of each row, the row held whole.  Strides are arguments, so that any matrix will do.
tile.kernel @softmax [i = n grid BI, j = m whole] grid (i) params {BI = 4, num_warps = 4} (
  %x : !tile.buffer<[n, m], [x0, x1], f16>
) -> (%o : !tile.buffer<[n, m], [m, 1], f16>) {
  %x_1 = tile.load %x<[i, j]> guard ["i", "j"] : !tile.buffer<[n, m], [x0, x1], f16> -> !tile.tile<[i, j], f16>
  %x_2 = tile.cast %x_1 : !tile.tile<[i, j], f16> -> !tile.tile<[i, j], f32>
  %x_3 = tile.pad %x_2 over ["j"] with 0xFF800000 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
  %top = tile.reduce "max" %x_3 over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
  %below = tile.map "sub"(%x_3, %top) : (!tile.tile<[i, j], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, j], f32>
  %p = tile.map "exp"(%below) : (!tile.tile<[i, j], f32>) -> !tile.tile<[i, j], f32>
  %sum = tile.reduce "sum" %p over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
  %y = tile.map "div"(%p, %sum) : (!tile.tile<[i, j], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, j], f32>
  tile.store %y, %o<[i, j]> guard ["i", "j"] : !tile.tile<[i, j], f32>, !tile.buffer<[n, m], [m, 1], f16>
  tile.return
}
