// RUN: fusecade opt -p one-hot %s | filecheck %s
// p is zero but at the place of the largest log(1 + x), where x is the largest x: what divides there is one number a row.

// CHECK:      cascade.program @p(%x
// CHECK:        %x_max = cascade.einsum [i = 8, j = n] ins(%x[i, j] : {{.*}}) outs(max [i]
// CHECK:        [[W:%[0-9]+]] = cascade.einsum [i = 8] ins(%g[i] : {{.*}}, %x_max[i] : {{.*}}) outs(map [i]
// CHECK:          arith.divf
// CHECK:        %p = cascade.einsum [i = 8, j = n] ins(%at[i] : {{.*}}, [[W]][i] : {{.*}}) outs(map [i, j]
// CHECK:          arith.cmpi ne
// CHECK-NOT:      arith.divf
// CHECK:        cascade.return %p
cascade.program @p(%x : !cascade.tensor<[8, n], f32>, %g : !cascade.tensor<[8], f32>) -> (!cascade.tensor<[8, n], f32>) {
  %z = cascade.einsum [i = 8, j = n] ins(%x[i, j] : !cascade.tensor<[8, n], f32>) outs(map [i, j] : !cascade.tensor<[8, n], f32>) {
  ^bb0(%a0_z : f32):
    %l_z = math.log1p %a0_z : f32
    cascade.yield %l_z : f32
  }
  %at = cascade.einsum [i = 8, j = n] ins(%z[i, j] : !cascade.tensor<[8, n], f32>) outs(argmax [i] : !cascade.tensor<[8], i64>) {
  ^bb0(%a0_at : f32):
    cascade.yield %a0_at : f32
  }
  %h = cascade.einsum [i = 8, j = n] ins(%g[i] : !cascade.tensor<[8], f32>, %at[i] : !cascade.tensor<[8], i64>) outs(map [i, j] : !cascade.tensor<[8, n], f32>) {
  ^bb0(%a0_h : f32, %a1_h : i64):
    %j_h = cascade.index j : i64
    %b_h = arith.cmpi eq, %j_h, %a1_h : i64
    %z_h = arith.constant 0.0 : f32
    %r_h = arith.select %b_h, %a0_h, %z_h : f32
    cascade.yield %r_h : f32
  }
  %p = cascade.einsum [i = 8, j = n] ins(%h[i, j] : !cascade.tensor<[8, n], f32>, %x[i, j] : !cascade.tensor<[8, n], f32>) outs(map [i, j] : !cascade.tensor<[8, n], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %o_p = arith.constant 1.0 : f32
    %s_p = arith.addf %a1_p, %o_p : f32
    %d_p = arith.divf %a0_p, %s_p : f32
    cascade.yield %d_p : f32
  }
  cascade.return %p : !cascade.tensor<[8, n], f32>
}
