// RUN: fusecade opt -p plan-memory %s | filecheck %s
// Three intermediates of 4096 bytes, two of them alive at once: the third stands where the first was.

// CHECK-DAG: arena = {a = 0 : i64, b = 4096 : i64, c = 0 : i64}
// CHECK-DAG: arena_bytes = 8192 : i64
// CHECK-DAG: arena_bound = 8192 : i64
cascade.program @chain(%x : !cascade.tensor<[1024], f32>) -> (!cascade.tensor<[1024], f32>) {
  %a = cascade.einsum [i = 1024] ins(%x[i] : !cascade.tensor<[1024], f32>) outs(map [i] : !cascade.tensor<[1024], f32>) {
  ^bb0(%a0_a : f32):
    %e_a = math.exp %a0_a : f32
    cascade.yield %e_a : f32
  }
  %b = cascade.einsum [i = 1024] ins(%a[i] : !cascade.tensor<[1024], f32>) outs(map [i] : !cascade.tensor<[1024], f32>) {
  ^bb0(%a0_b : f32):
    %e_b = math.sin %a0_b : f32
    cascade.yield %e_b : f32
  }
  %c = cascade.einsum [i = 1024] ins(%b[i] : !cascade.tensor<[1024], f32>) outs(map [i] : !cascade.tensor<[1024], f32>) {
  ^bb0(%a0_c : f32):
    %e_c = math.cos %a0_c : f32
    cascade.yield %e_c : f32
  }
  %o = cascade.einsum [i = 1024] ins(%c[i] : !cascade.tensor<[1024], f32>) outs(map [i] : !cascade.tensor<[1024], f32>) {
  ^bb0(%a0_o : f32):
    %e_o = math.tanh %a0_o : f32
    cascade.yield %e_o : f32
  }
  cascade.return %o : !cascade.tensor<[1024], f32>
}
