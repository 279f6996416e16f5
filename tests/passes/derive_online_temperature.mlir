// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// A temperature of each row, of which no sign is known: the transport reads it, and leaves a sum alone that nothing was
// added to yet (the factor would be infinite).

// CHECK:      %m, %l_a0 = cascade.online [i = 4096, k = 32000]
// CHECK:      transport {
// CHECK-NEXT: ^bb0([[OLD:%[0-9]+]]: f32, [[NEW:%[0-9]+]]: f32, [[L:%[0-9]+]]: f32, [[T:%[0-9]+]]: f32):
// CHECK:        [[D:%[0-9]+]] = arith.subf [[OLD]], [[NEW]]
// CHECK:        arith.divf [[D]], [[T]]
// CHECK:        [[MOVED:%[0-9]+]] = arith.mulf [[L]], %{{[0-9]+}}
// CHECK:        [[NOTHING:%[0-9]+]] = arith.cmpf oeq, [[OLD]], %{{[0-9]+}}
// CHECK:        arith.select [[NOTHING]], [[L]], [[MOVED]]
// CHECK:      a factor of unknown sign: nothing is moved before something was folded
cascade.program @scaled(%h : !cascade.tensor<[4096, 64], f32>, %w : !cascade.tensor<[32000, 64], f32>, %t : !cascade.tensor<[4096], f32>) -> (!cascade.tensor<[4096], f32>) {
  %x = cascade.einsum [i = 4096, k = 32000, d = 64] ins(%h[i, d] : !cascade.tensor<[4096, 64], f32>, %w[k, d] : !cascade.tensor<[32000, 64], f32>) outs(sum [i, k] : !cascade.tensor<[4096, 32000], f32>) {
  ^bb0(%a0_x : f32, %a1_x : f32):
    %p_x = arith.mulf %a0_x, %a1_x : f32
    cascade.yield %p_x : f32
  }
  %m = cascade.einsum [i = 4096, k = 32000] ins(%x[i, k] : !cascade.tensor<[4096, 32000], f32>) outs(max [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %l = cascade.einsum [i = 4096, k = 32000] ins(%x[i, k] : !cascade.tensor<[4096, 32000], f32>, %m[i] : !cascade.tensor<[4096], f32>, %t[i] : !cascade.tensor<[4096], f32>) outs(sum [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_l : f32, %a1_l : f32, %a2_l : f32):
    %d_l = arith.subf %a0_l, %a1_l : f32
    %q_l = arith.divf %d_l, %a2_l : f32
    %e_l = math.exp %q_l : f32
    cascade.yield %e_l : f32
  }
  cascade.return %l : !cascade.tensor<[4096], f32>
}
