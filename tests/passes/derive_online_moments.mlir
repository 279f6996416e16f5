// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// The entropy of a softmax folds e and (x - m) e, both at the running maximum m.  When m moves by d, the second one also
// takes d times the first.  The raw moment x e, which cancels for large x, is nowhere.

// CHECK:      %m, %l_a0, %h_a0 = cascade.online {{.*}} outs(max [i] : {{.*}}, sum [i] : {{.*}}, sum [i] : {{.*}}) over j gauges [0] step {
// CHECK-NEXT:   bb0([[X:%[0-9]+]]: f32, [[M:%[0-9]+]]: f32):
// CHECK-NEXT:   [[D:%[0-9]+]] = arith.subf [[X]], [[M]] : f32
// CHECK-NEXT:   [[E:%[0-9]+]] = math.exp [[D]] : f32
// CHECK-NEXT:   [[H:%[0-9]+]] = arith.mulf [[D]], [[E]] : f32
// CHECK-NEXT:   cascade.yield [[X]], [[E]], [[H]] : f32, f32, f32
// CHECK-NEXT: } transport {
// CHECK-NEXT:   bb0([[OLD:%[0-9]+]]: f32, [[NEW:%[0-9]+]]: f32, [[L:%[0-9]+]]: f32, [[A:%[0-9]+]]: f32):
// CHECK:        [[LF:%[0-9]+]] = arith.mulf [[L]], [[F:%[0-9]+]] : f32
// CHECK-NEXT:   [[AF:%[0-9]+]] = arith.mulf [[A]], [[F]] : f32
// CHECK:        [[STEP:%[0-9]+]] = arith.select
// CHECK-NEXT:   [[P:%[0-9]+]] = arith.mulf [[LF]], [[STEP]] : f32
// CHECK-NEXT:   [[B:%[0-9]+]] = arith.subf [[AF]], [[P]] : f32
// CHECK-NEXT:   cascade.yield [[LF]], [[B]] : f32, f32
// CHECK:      certificates = [{{.*}}moved by Taylor's formula
cascade.program @entropy(%x : !cascade.tensor<[8192, 4096], f32>) -> (!cascade.tensor<[8192], f32>) {
  %m = cascade.einsum [i = 8192, j = 4096] ins(%x[i, j] : !cascade.tensor<[8192, 4096], f32>) outs(max [i] : !cascade.tensor<[8192], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [i = 8192, j = 4096] ins(%x[i, j] : !cascade.tensor<[8192, 4096], f32>, %m[i] : !cascade.tensor<[8192], f32>) outs(map [i, j] : !cascade.tensor<[8192, 4096], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [i = 8192, j = 4096] ins(%e[i, j] : !cascade.tensor<[8192, 4096], f32>) outs(sum [i] : !cascade.tensor<[8192], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %h = cascade.einsum [i = 8192, j = 4096] ins(%x[i, j] : !cascade.tensor<[8192, 4096], f32>, %m[i] : !cascade.tensor<[8192], f32>, %e[i, j] : !cascade.tensor<[8192, 4096], f32>, %l[i] : !cascade.tensor<[8192], f32>) outs(sum [i] : !cascade.tensor<[8192], f32>) {
  ^bb0(%a0_h : f32, %a1_h : f32, %a2_h : f32, %a3_h : f32):
    %d_h = arith.subf %a0_h, %a1_h : f32
    %g_h = math.log %a3_h : f32
    %q_h = arith.subf %d_h, %g_h : f32
    %p_h = arith.divf %a2_h, %a3_h : f32
    %r_h = arith.mulf %p_h, %q_h : f32
    cascade.yield %r_h : f32
  }
  cascade.return %h : !cascade.tensor<[8192], f32>
}
