// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// max_s log1p(relu(x)) is log1p(relu(max_s x)): once an output instead of once an element.

// CHECK:      %o_a0 = cascade.einsum [v = 30522, s = 4096] ins(%x[s, v] : {{.*}}) outs(max [v]
// CHECK-NEXT: bb0([[X:%[0-9]+]]: f32):
// CHECK-NEXT:   cascade.yield [[X]] : f32
// CHECK:      %o_1 = cascade.einsum [v = 30522] ins(%o_a0[v] : {{.*}}) outs(map [v]
// CHECK:        arith.maximumf
// CHECK:        math.log1p
cascade.program @pooled(%h : !cascade.tensor<[4096, 64], f32>, %e : !cascade.tensor<[30522, 64], f32>) -> (!cascade.tensor<[30522], f32>) {
  %x = cascade.einsum [s = 4096, v = 30522, d = 64] ins(%h[s, d] : !cascade.tensor<[4096, 64], f32>, %e[v, d] : !cascade.tensor<[30522, 64], f32>) outs(sum [s, v] : !cascade.tensor<[4096, 30522], f32>) {
  ^bb0(%a0_x : f32, %a1_x : f32):
    %p_x = arith.mulf %a0_x, %a1_x : f32
    cascade.yield %p_x : f32
  }
  %g = cascade.einsum [s = 4096, v = 30522] ins(%x[s, v] : !cascade.tensor<[4096, 30522], f32>) outs(map [s, v] : !cascade.tensor<[4096, 30522], f32>) {
  ^bb0(%a0_g : f32):
    %z_g = arith.constant 0.0 : f32
    %r_g = arith.maximumf %a0_g, %z_g : f32
    %p_g = math.log1p %r_g : f32
    cascade.yield %p_g : f32
  }
  %o = cascade.einsum [v = 30522, s = 4096] ins(%g[s, v] : !cascade.tensor<[4096, 30522], f32>) outs(max [v] : !cascade.tensor<[30522], f32>) {
  ^bb0(%a0_o : f32):
    cascade.yield %a0_o : f32
  }
  cascade.return %o : !cascade.tensor<[30522], f32>
}
