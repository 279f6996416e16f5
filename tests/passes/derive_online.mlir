// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// Maximum, normaliser and weighted sum become one fold; the division by the normaliser is done once, at the end.

// CHECK:      %s = cascade.einsum
// CHECK:      %m, %l_a0, %o_a0 = cascade.online {{.*}} outs(max [b, i] : {{.*}}, sum [b, i] : {{.*}}, sum [b, i, c] : {{.*}}) over j gauges [0] step {
// CHECK-NEXT:   bb0([[X:%[0-9]+]]: f32, [[V:%[0-9]+]]: f32, [[M:%[0-9]+]]: f32):
// CHECK-NEXT:   [[D:%[0-9]+]] = arith.subf [[X]], [[M]] : f32
// CHECK-NEXT:   [[E:%[0-9]+]] = math.exp [[D]] : f32
// CHECK-NEXT:   [[P:%[0-9]+]] = arith.mulf [[V]], [[E]] : f32
// CHECK-NEXT:   cascade.yield [[X]], [[E]], [[P]] : f32, f32, f32
// CHECK-NEXT: } transport {
// CHECK-NEXT:   bb0([[OLD:%[0-9]+]]: f32, [[NEW:%[0-9]+]]: f32, [[L:%[0-9]+]]: f32, [[O:%[0-9]+]]: f32):
// CHECK-NEXT:   [[C:%[0-9]+]] = arith.subf [[OLD]], [[NEW]] : f32
// CHECK-NEXT:   [[F:%[0-9]+]] = math.exp [[C]] : f32
// CHECK-NEXT:   arith.mulf [[L]], [[F]] : f32
// CHECK-NEXT:   arith.mulf [[O]], [[F]] : f32
// CHECK:      %o_1 = cascade.einsum [b = 16, i = 4096, c = 64] ins(%l_a0[b, i] : {{.*}}, %o_a0[b, i, c]
// CHECK:        arith.divf
// CHECK:      certificates = [{{.*}}moved by exp of the change of -m
cascade.program @attention(%q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %m = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(max [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %m[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(sum [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %p = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%e[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %l[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %d_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %d_p : f32
  }
  %o = cascade.einsum [b = 16, i = 4096, c = 64, j = 4096] ins(%p[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %v[b, j, c] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, c] : !cascade.tensor<[16, 4096, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[16, 4096, 64], f32>
}
