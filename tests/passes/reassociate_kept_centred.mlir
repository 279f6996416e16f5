// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// A difference is not multiplied out: x w and m w may be large where (x - m) w is small.

// CHECK:      %z = cascade.einsum
// CHECK:      %y = cascade.einsum [i = 4, n = 8, c = 4096] ins(%z[i, c] : {{.*}}, %w[c, n]
// CHECK:      cascade.return %y
// CHECK-NOT:  reassociated
cascade.program @centred(%x : !cascade.tensor<[4, 4096], f32>, %m : !cascade.tensor<[4], f32>, %w : !cascade.tensor<[4096, 8], f32>) -> (!cascade.tensor<[4, 8], f32>) {
  %z = cascade.einsum [i = 4, c = 4096] ins(%x[i, c] : !cascade.tensor<[4, 4096], f32>, %m[i] : !cascade.tensor<[4], f32>) outs(map [i, c] : !cascade.tensor<[4, 4096], f32>) {
  ^bb0(%a0_z : f32, %a1_z : f32):
    %p_z = arith.subf %a0_z, %a1_z : f32
    cascade.yield %p_z : f32
  }
  %y = cascade.einsum [i = 4, n = 8, c = 4096] ins(%z[i, c] : !cascade.tensor<[4, 4096], f32>, %w[c, n] : !cascade.tensor<[4096, 8], f32>) outs(sum [i, n] : !cascade.tensor<[4, 8], f32>) {
  ^bb0(%a0_y : f32, %a1_y : f32):
    %p_y = arith.mulf %a0_y, %a1_y : f32
    cascade.yield %p_y : f32
  }
  cascade.return %y : !cascade.tensor<[4, 8], f32>
}
