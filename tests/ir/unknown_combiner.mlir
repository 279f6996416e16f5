// RUN: not fusecade opt %s
// EXPECT-ERROR: 'median' is not a combiner; known: map, sum

cascade.program @p(%x : !cascade.tensor<[n, m], f32>) -> () {
  %y = cascade.einsum [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f32>)
      outs(median [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a : f32):
    cascade.yield %a : f32
  }
  cascade.return
}
