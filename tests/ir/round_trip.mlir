// RUN: fusecade opt %s | filecheck %s

// A softmax in one pass: the maximum is the gauge, the sum is transported.
// CHECK: cascade.program @logsumexp(%x: !cascade.tensor<[n, m], f16>) -> (!cascade.tensor<[n], f32>)
// CHECK-NEXT: cascade.online [i = n, j = m]
// CHECK-SAME: over j gauges [0] step
cascade.program @logsumexp(%x : !cascade.tensor<[n, m], f16>) -> (!cascade.tensor<[n], f32>) {
  %m, %l = cascade.online [i = n, j = m] ins(%x[i, j] : !cascade.tensor<[n, m], f16>)
      outs(max [i] : !cascade.tensor<[n], f32>, sum [i] : !cascade.tensor<[n], f32>) over j gauges [0] step {
  ^bb0(%a : f32, %g : f32):
    %d = arith.subf %a, %g : f32
    %e = math.exp %d : f32
    cascade.yield %a, %e : f32, f32
  } transport {
  ^bb0(%old : f32, %new : f32, %s : f32):
    %d = arith.subf %old, %new : f32
    %e = math.exp %d : f32
    %t = arith.mulf %s, %e : f32
    cascade.yield %t : f32
  }
  // CHECK: cascade.einsum [i = n] ins(%m[i] : !cascade.tensor<[n], f32>, %l[i] : !cascade.tensor<[n], f32>) outs(map [i]
  %y = cascade.einsum [i = n] ins(%m[i] : !cascade.tensor<[n], f32>, %l[i] : !cascade.tensor<[n], f32>)
      outs(map [i] : !cascade.tensor<[n], f32>) {
  ^bb0(%a : f32, %s : f32):
    %k = math.log %s : f32
    %r = arith.addf %a, %k : f32
    cascade.yield %r : f32
  }
  cascade.return %y : !cascade.tensor<[n], f32>
}
