// RUN: fusecade opt -p known-sums %s | filecheck %s
// As in known_sums.mlir, with the features of heads side by side: feature f of head b is column 8 b + f of v and of a.  Which
// feature of o is meant follows from the column.  s reads columns of v that o does not hold, one further on: it stays.

// CHECK:      cascade.program @p(%w
// CHECK:        %o = cascade.einsum [b = 4, i = n, f = 8, k = n]
// CHECK:        %e = cascade.einsum [b = 4, i = n, k = n, g = 8]
// CHECK:        [[T:%[0-9]+]] = cascade.einsum [b = 4, i = n, g = 8] ins(%a[i, b * 8 + g] : {{.*}}, %o[b, i, g] : {{.*}}) outs(map
// CHECK:        %r = cascade.einsum [b = 4, i = n, g = 8] ins([[T]][b, i, g] : {{.*}}) outs(sum [b, i]
// CHECK:        %s = cascade.einsum [b = 4, i = n, k = n] ins(%w{{.*}}%e{{.*}}outs(sum [b, i]
// CHECK:        cascade.return %o, %r, %s
cascade.program @p(%w : !cascade.tensor<[4, n, n], f32>, %v : !cascade.tensor<[n, 40], f32>, %a : !cascade.tensor<[n, 32], f32>) -> (!cascade.tensor<[4, n, 8], f32>, !cascade.tensor<[4, n], f32>, !cascade.tensor<[4, n], f32>) {
  %o = cascade.einsum [b = 4, i = n, f = 8, k = n] ins(%w[b, i, k] : !cascade.tensor<[4, n, n], f32>, %v[k, b * 8 + f] : !cascade.tensor<[n, 40], f32>) outs(sum [b, i, f] : !cascade.tensor<[4, n, 8], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %m_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %m_o : f32
  }
  %d = cascade.einsum [b = 4, i = n, k = n, g = 8] ins(%a[i, b * 8 + g] : !cascade.tensor<[n, 32], f32>, %v[k, b * 8 + g] : !cascade.tensor<[n, 40], f32>) outs(sum [b, i, k] : !cascade.tensor<[4, n, n], f32>) {
  ^bb0(%a0_d : f32, %a1_d : f32):
    %m_d = arith.mulf %a0_d, %a1_d : f32
    cascade.yield %m_d : f32
  }
  %e = cascade.einsum [b = 4, i = n, k = n, g = 8] ins(%a[i, b * 8 + g] : !cascade.tensor<[n, 32], f32>, %v[k, b * 8 + g + 1] : !cascade.tensor<[n, 40], f32>) outs(sum [b, i, k] : !cascade.tensor<[4, n, n], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %m_e = arith.mulf %a0_e, %a1_e : f32
    cascade.yield %m_e : f32
  }
  %r = cascade.einsum [b = 4, i = n, k = n] ins(%w[b, i, k] : !cascade.tensor<[4, n, n], f32>, %d[b, i, k] : !cascade.tensor<[4, n, n], f32>) outs(sum [b, i] : !cascade.tensor<[4, n], f32>) {
  ^bb0(%a0_r : f32, %a1_r : f32):
    %m_r = arith.mulf %a0_r, %a1_r : f32
    cascade.yield %m_r : f32
  }
  %s = cascade.einsum [b = 4, i = n, k = n] ins(%w[b, i, k] : !cascade.tensor<[4, n, n], f32>, %e[b, i, k] : !cascade.tensor<[4, n, n], f32>) outs(sum [b, i] : !cascade.tensor<[4, n], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %m_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %m_s : f32
  }
  cascade.return %o, %r, %s : !cascade.tensor<[4, n, 8], f32>, !cascade.tensor<[4, n], f32>, !cascade.tensor<[4, n], f32>
}
