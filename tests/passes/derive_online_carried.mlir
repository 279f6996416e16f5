// RUN: fusecade opt -p fuse{target=sm_90},derive-online %s | filecheck %s
// What is read at the place of an extreme is part of the state: it is kept while the place stays, dropped when another
// element takes it, and the new winner brings its own.  One pass, and the place is a gauge.

// CHECK:      %i, %o_a0 = cascade.online [r = 4096, k = 32000]
// CHECK-SAME: outs(argmax [r] : !cascade.tensor<[4096], i64>, sum [r] : !cascade.tensor<[4096], f32>) over k gauges [0] step {
// CHECK-NEXT: ^bb0([[KEY:%[0-9]+]]: f32, [[AT:%[0-9]+]]: i64, [[X:%[0-9]+]]: f32, [[I:%[0-9]+]]: i64):
// CHECK-NEXT:   [[WON:%[0-9]+]] = arith.cmpi eq, [[AT]], [[I]] : i64
// CHECK:        [[PSI:%[0-9]+]] = arith.select [[WON]], [[X]]
// CHECK-NEXT:   cascade.yield [[KEY]], [[PSI]]
// CHECK:      transport {
// CHECK-NEXT: ^bb0([[OLD:%[0-9]+]]: i64, [[NEW:%[0-9]+]]: i64, [[O:%[0-9]+]]: f32):
// CHECK-NEXT:   [[SAME:%[0-9]+]] = arith.cmpi eq, [[OLD]], [[NEW]] : i64
// CHECK:        arith.select [[SAME]], [[O]]
// CHECK:      "o: sum select(eq({{.*}}, i), {{.*}}; the winner keeps what it carries"
cascade.program @sampled(%h : !cascade.tensor<[4096, 64], f32>, %w : !cascade.tensor<[32000, 64], f32>, %g : !cascade.tensor<[4096, 32000], f32>) -> (!cascade.tensor<[4096], f32>) {
  %x = cascade.einsum [r = 4096, k = 32000, d = 64] ins(%h[r, d] : !cascade.tensor<[4096, 64], f32>, %w[k, d] : !cascade.tensor<[32000, 64], f32>) outs(sum [r, k] : !cascade.tensor<[4096, 32000], f32>) {
  ^bb0(%a0_x : f32, %a1_x : f32):
    %p_x = arith.mulf %a0_x, %a1_x : f32
    cascade.yield %p_x : f32
  }
  %i = cascade.einsum [r = 4096, k = 32000] ins(%x[r, k] : !cascade.tensor<[4096, 32000], f32>, %g[r, k] : !cascade.tensor<[4096, 32000], f32>) outs(argmax [r] : !cascade.tensor<[4096], i64>) {
  ^bb0(%a0_i : f32, %a1_i : f32):
    %s_i = arith.addf %a0_i, %a1_i : f32
    cascade.yield %s_i : f32
  }
  %o = cascade.einsum [r = 4096, k = 32000] ins(%x[r, k] : !cascade.tensor<[4096, 32000], f32>, %i[r] : !cascade.tensor<[4096], i64>) outs(sum [r] : !cascade.tensor<[4096], f32>) {
  ^bb0(%a0_o : f32, %a1_o : i64):
    %k_o = cascade.index k : i64
    %h_o = arith.cmpi eq, %k_o, %a1_o : i64
    %z_o = arith.constant 0.0 : f32
    %c_o = arith.select %h_o, %a0_o, %z_o : f32
    cascade.yield %c_o : f32
  }
  cascade.return %o : !cascade.tensor<[4096], f32>
}
