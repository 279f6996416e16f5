// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// With p = w / Σ w, the sum t = Σ_k p Σ_f a v is Σ_f a y_f, where y_f = Σ_k p v is folded anyway: t takes nothing of the loop.

// CHECK:      %y_a0 = cascade.einsum [i = 4096, g = 64, k = 4096] {{.*}} outs(sum [i, g] : !cascade.tensor<[4096, 64], f32>)
// CHECK:      %t_a0 = cascade.einsum [i = 4096, g = 64] ins(%a_1[i, g] : {{.*}}, %y_a0[i, g] : {{.*}}) outs(sum [i] : {{.*}}) {
// CHECK-NEXT:   bb0([[A:%[0-9]+]]: f32, [[B:%[0-9]+]]: f32):
// CHECK-NEXT:   [[P:%[0-9]+]] = arith.mulf [[A]], [[B]] : f32
// CHECK-NEXT:   cascade.yield [[P]] : f32
// CHECK-NOT:  k = 4096]
// CHECK:      certificates = [{{.*}}t_a0 = Σ_g a[i, g]*y_a0: sums commute
cascade.program @through(%w : !cascade.tensor<[4096, 4096], f32>, %a : !cascade.tensor<[4096, 64], f32>, %v : !cascade.tensor<[4096, 64], f32>) -> (!cascade.tensor<[4096, 64], f32>, !cascade.tensor<[4096], f32>) {
  %s = cascade.einsum [i = 4096, k = 4096] ins(%w[i, k] : !cascade.tensor<[4096, 4096], f32>) outs(sum [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_s : f32):
    cascade.yield %a0_s : f32
  }
  %p = cascade.einsum [i = 4096, k = 4096] ins(%w[i, k] : !cascade.tensor<[4096, 4096], f32>, %s[i] : !cascade.tensor<[4096], f32>) outs(map [i, k] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %q_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %q_p : f32
  }
  %d = cascade.einsum [i = 4096, k = 4096, g = 64] ins(%a[i, g] : !cascade.tensor<[4096, 64], f32>, %v[k, g] : !cascade.tensor<[4096, 64], f32>) outs(sum [i, k] : !cascade.tensor<[4096, 4096], f32>) {
  ^bb0(%a0_d : f32, %a1_d : f32):
    %q_d = arith.mulf %a0_d, %a1_d : f32
    cascade.yield %q_d : f32
  }
  %y = cascade.einsum [i = 4096, f = 64, k = 4096] ins(%p[i, k] : !cascade.tensor<[4096, 4096], f32>, %v[k, f] : !cascade.tensor<[4096, 64], f32>) outs(sum [i, f] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_y : f32, %a1_y : f32):
    %q_y = arith.mulf %a0_y, %a1_y : f32
    cascade.yield %q_y : f32
  }
  %t = cascade.einsum [i = 4096, k = 4096] ins(%p[i, k] : !cascade.tensor<[4096, 4096], f32>, %d[i, k] : !cascade.tensor<[4096, 4096], f32>) outs(sum [i] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_t : f32, %a1_t : f32):
    %q_t = arith.mulf %a0_t, %a1_t : f32
    cascade.yield %q_t : f32
  }
  cascade.return %y, %t : !cascade.tensor<[4096, 64], f32>, !cascade.tensor<[4096], f32>
}
