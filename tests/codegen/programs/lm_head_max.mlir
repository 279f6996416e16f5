// RUN: fusecade opt %s
// log1p(relu(max_s h[b, s, :] . e[v, :])): a GEMM whose rows are reduced at once; monotone maps after the maximum.
tile.kernel @lm_head_max [b = nb unit, v = nv grid BV, s = ns loop BS, d = 256 whole] grid (v, b) params {BS = 64, BV = 128, num_warps = 4} (
  %h : !tile.buffer<[nb, ns, 256], [ns * 256, 256, 1], f32>,
  %e : !tile.buffer<[nv, 256], [256, 1], f32>
) -> (%o : !tile.buffer<[nb, nv], [nv, 1], f32>) {
  %e_1 = tile.load %e<[v, d]> guard ["v", "d"] : !tile.buffer<[nv, 256], [256, 1], f32> -> !tile.tile<[v, d], f32>
  %top0 = tile.fill 0xFF800000 : f32 -> !tile.tile<[v], f32>
  %zero = tile.fill 0.0 : f32 -> !tile.tile<[], f32>
  %top = tile.for s from 0 to ns (%top_i = %top0 : !tile.tile<[v], f32>) {
    %h_1 = tile.load %h<[b, s, d]> guard ["s", "d"] : !tile.buffer<[nb, ns, 256], [ns * 256, 256, 1], f32> -> !tile.tile<[s, d], f32>
    %y = tile.dot %e_1, %h_1 over "d" precision "ieee" : !tile.tile<[v, d], f32>, !tile.tile<[s, d], f32> -> !tile.tile<[v, s], f32>
    %y_1 = tile.pad %y over ["s"] with 0xFF800000 : f32 : !tile.tile<[v, s], f32> -> !tile.tile<[v, s], f32>
    %best = tile.reduce "max" %y_1 over "s" : (!tile.tile<[v, s], f32>) -> !tile.tile<[v], f32>
    %top_new = tile.map "maximum"(%top_i, %best) : (!tile.tile<[v], f32>, !tile.tile<[v], f32>) -> !tile.tile<[v], f32>
    tile.yield %top_new : !tile.tile<[v], f32>
  }
  %positive = tile.map "maximum"(%top, %zero) : (!tile.tile<[v], f32>, !tile.tile<[], f32>) -> !tile.tile<[v], f32>
  %z = tile.map "log1p"(%positive) : (!tile.tile<[v], f32>) -> !tile.tile<[v], f32>
  tile.store %z, %o<[b, v]> guard ["v"] : !tile.tile<[v], f32>, !tile.buffer<[nb, nv], [nv, 1], f32>
  tile.return
}
