// RUN: fusecade opt %s
// x / sqrt(mean(x^2) + eps) times w^T, the statistics gathered in the GEMM's own loop and applied after it.
tile.kernel @rms_norm_gemm [i = n grid BI, o = p grid BO, k = q loop BK] grid (i, o) params {BI = 64, BK = 32, BO = 64, num_stages = 3, num_warps = 4} (
  %x : !tile.buffer<[n, q], [q, 1], f16>,
  %w : !tile.buffer<[p, q], [q, 1], f16>,
  %inverse : !tile.buffer<[], [], f32>
) -> (%y : !tile.buffer<[n, p], [p, 1], f16>) {
  %eps = tile.fill 1.0e-05 : f32 -> !tile.tile<[], f32>
  %inverse_1 = tile.load %inverse<[]> guard [] : !tile.buffer<[], [], f32> -> !tile.tile<[], f32>
  %ss0 = tile.fill 0.0 : f32 -> !tile.tile<[i], f32>
  %acc0 = tile.fill 0.0 : f32 -> !tile.tile<[i, o], f32>
  %ss, %acc = tile.for k from 0 to q (%ss_i = %ss0 : !tile.tile<[i], f32>, %acc_i = %acc0 : !tile.tile<[i, o], f32>) {
    %x_1 = tile.load %x<[i, k]> guard ["i", "k"] : !tile.buffer<[n, q], [q, 1], f16> -> !tile.tile<[i, k], f16>
    %w_1 = tile.load %w<[o, k]> guard ["o", "k"] : !tile.buffer<[p, q], [q, 1], f16> -> !tile.tile<[o, k], f16>
    %x_2 = tile.cast %x_1 : !tile.tile<[i, k], f16> -> !tile.tile<[i, k], f32>
    %sq = tile.map "mul"(%x_2, %x_2) : (!tile.tile<[i, k], f32>, !tile.tile<[i, k], f32>) -> !tile.tile<[i, k], f32>
    %part = tile.reduce "sum" %sq over "k" : (!tile.tile<[i, k], f32>) -> !tile.tile<[i], f32>
    %ss_new = tile.map "add"(%ss_i, %part) : (!tile.tile<[i], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i], f32>
    %acc_new = tile.dot %x_1, %w_1 acc %acc_i : !tile.tile<[i, o], f32> over "k" precision "ieee" : !tile.tile<[i, k], f16>, !tile.tile<[o, k], f16> -> !tile.tile<[i, o], f32>
    tile.yield %ss_new, %acc_new : !tile.tile<[i], f32>, !tile.tile<[i, o], f32>
  }
  %ms = tile.map "mul"(%ss, %inverse_1) : (!tile.tile<[i], f32>, !tile.tile<[], f32>) -> !tile.tile<[i], f32>
  %ms_1 = tile.map "add"(%ms, %eps) : (!tile.tile<[i], f32>, !tile.tile<[], f32>) -> !tile.tile<[i], f32>
  %r = tile.map "rsqrt"(%ms_1) : (!tile.tile<[i], f32>) -> !tile.tile<[i], f32>
  %out = tile.map "mul"(%acc, %r) : (!tile.tile<[i, o], f32>, !tile.tile<[i], f32>) -> !tile.tile<[i, o], f32>
  tile.store %out, %y<[i, o]> guard ["i", "o"] : !tile.tile<[i, o], f32>, !tile.buffer<[n, p], [p, 1], f16>
  tile.return
}
