// RUN: fusecade opt %s
// Attention with an added mask of any strides (0 where it is broadcast); a row that is all -inf gives NaN.
tile.kernel @biased [b = nb unit, i = n grid BI, j = m loop BJ, d = 64 whole, v = 64 whole] grid (b, i) params {BI = 128, BJ = 64, num_stages = 2, num_warps = 4} (
  %q : !tile.buffer<[nb, n, 64], [n * 64, 64, 1], f16>,
  %k : !tile.buffer<[nb, m, 64], [m * 64, 64, 1], f16>,
  %v : !tile.buffer<[nb, m, 64], [m * 64, 64, 1], f16>,
  %mask : !tile.buffer<[nb, n, m], [s0, s1, s2], f32>
) -> (%o : !tile.buffer<[nb, n, 64], [n * 64, 64, 1], f16>) {
  %q_1 = tile.load %q<[b, i, d]> guard ["i", "d"] : !tile.buffer<[nb, n, 64], [n * 64, 64, 1], f16> -> !tile.tile<[i, d], f16>
  %scale = tile.fill 0.125 : f32 -> !tile.tile<[], f32>
  %least = tile.fill 0xFF7FFFFF : f32 -> !tile.tile<[], f32>
  %m0 = tile.fill 0xFF800000 : f32 -> !tile.tile<[i], f32>
  %l0 = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
  %acc0 = tile.fill 0.0 : f32 -> !tile.tile<[i, v], f32>
  %m, %l, %acc = tile.for j from 0 to m (%m_i = %m0 : !tile.tile<[i], f32>, %l_i = %l0 : !tile.tile<[i], f32>, %acc_i = %acc0 : !tile.tile<[i, v], f32>) {
    %k_1 = tile.load %k<[b, j, d]> guard ["j", "d"] : !tile.buffer<[nb, m, 64], [m * 64, 64, 1], f16> -> !tile.tile<[j, d], f16>
    %qk = tile.dot %q_1, %k_1 over "d" precision "ieee" : !tile.tile<[i, d], f16>, !tile.tile<[j, d], f16> -> !tile.tile<[i, j], f32>
    %s = tile.map "mul"(%qk, %scale) : (!tile.tile<[i, j], f32>, !tile.tile<[], f32>) -> !tile.tile<[i, j], f32>
    %mask_1 = tile.load %mask<[b, i, j]> guard ["i", "j"] : !tile.buffer<[nb, n, m], [s0, s1, s2], f32> -> !tile.tile<[i, j], f32>
    %added = tile.map "add"(%s, %mask_1) : (!tile.tile<[i, j], f32>, !tile.tile<[i, j], f32>) -> !tile.tile<[i, j], f32>
    %s_1 = tile.pad %added over ["j"] with 0xFF800000 : f32 : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f32>
    %top = tile.reduce "max" %s_1 over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
    %m_new = tile.map "maximum"(%m_i, %top) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %ref = tile.map "maximum"(%m_new, %least) : (!tile.tile<[i], f32>, !tile.tile<[], f32>) -> !tile.tile<[i], f32>
    %moved = tile.map "sub"(%m_i, %ref) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %decay = tile.map "exp"(%moved) : (!tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %s_2 = tile.map "sub"(%s_1, %ref) : (!tile.tile<[i, j], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, j], f32>
    %p = tile.map "exp"(%s_2) : (!tile.tile<[i, j], f32>) -> !tile.tile<[i, j], f32>
    %sum = tile.reduce "sum" %p over "j" : (!tile.tile<[i, j], f32>) -> !tile.tile<[i], f32>
    %l_1 = tile.map "mul"(%l_i, %decay) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %l_new = tile.map "add"(%l_1, %sum) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %v_1 = tile.load %v<[b, j, v]> guard ["j", "v"] : !tile.buffer<[nb, m, 64], [m * 64, 64, 1], f16> -> !tile.tile<[j, v], f16>
    %acc_1 = tile.map "mul"(%acc_i, %decay) : (!tile.tile<[i, v], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, v], f32>
    %p_1 = tile.cast %p : !tile.tile<[i, j], f32> -> !tile.tile<[i, j], f16>
    %acc_new = tile.dot %p_1, %v_1 acc %acc_1 : !tile.tile<[i, v], f32> over "j" precision "ieee" : !tile.tile<[i, j], f16>, !tile.tile<[j, v], f16> -> !tile.tile<[i, v], f32>
    tile.yield %m_new, %l_new, %acc_new : !tile.tile<[i], f32>, !tile.tile<[i], f32>, !tile.tile<[i, v], f32>
  }
  %out = tile.map "div"(%acc, %l) : (!tile.tile<[i, v], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, v], f32>
  tile.store %out, %o<[b, i, v]> guard ["i", "v"] : !tile.tile<[i, v], f32>, !tile.buffer<[nb, n, 64], [n * 64, 64, 1], f16>
  tile.return
}
