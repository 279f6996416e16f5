// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// A triangular quadratic form: quadratic within chunks, one state a chunk, and a prefix sum of the states.

// CHECK:      cascade.einsum [b = 8, a = 64, r = 64, t = 64, d = 64] ins(%q[b, a * 64 + r, d] : {{.*}}, %k[b, a * 64 + t, d]
// CHECK:      outs(map [b, a, r, t]
// CHECK:      cascade.index t
// CHECK:      cascade.index r
// CHECK:      arith.cmpi sle
// CHECK:      arith.select
// CHECK:      %v[b, a * 64 + t, f] : {{.*}}) outs(sum [b, a, r, f]
// CHECK:      %k[b, b_ * 64 + t, d] : {{.*}}, %v[b, b_ * 64 + t, f] : {{.*}}) outs(sum [b, b_, d, f]
// CHECK:      outs(sum [b, a, d, f]
// CHECK:      arith.cmpi slt
// CHECK:      arith.select
// CHECK:      outs(sum [b, a, r, f]
// CHECK:      %o = cascade.einsum [b = 8, i = 4096, f = 64] ins({{.*}}[b, i floordiv 64, i mod 64, f]
// CHECK:      arith.addf
// CHECK-NOT:  cascade.einsum
// CHECK:      cascade.return %o
cascade.program @prefix(%q : !cascade.tensor<[8, 4096, 64], f32>, %k : !cascade.tensor<[8, 4096, 64], f32>, %v : !cascade.tensor<[8, 4096, 64], f32>) -> (!cascade.tensor<[8, 4096, 64], f32>) {
  %s = cascade.einsum [b = 8, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[8, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[8, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[8, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %m = cascade.einsum [b = 8, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[8, 4096, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[8, 4096, 4096], f32>) {
  ^bb0(%a0_m : f32):
    %j_m = cascade.index j : i64
    %i_m = cascade.index i : i64
    %c_m = arith.cmpi sle, %j_m, %i_m : i64
    %z_m = arith.constant 0.0 : f32
    %p_m = arith.select %c_m, %a0_m, %z_m : f32
    cascade.yield %p_m : f32
  }
  %o = cascade.einsum [b = 8, i = 4096, f = 64, j = 4096] ins(%m[b, i, j] : !cascade.tensor<[8, 4096, 4096], f32>, %v[b, j, f] : !cascade.tensor<[8, 4096, 64], f32>) outs(sum [b, i, f] : !cascade.tensor<[8, 4096, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[8, 4096, 64], f32>
}
