// RUN: fusecade opt -p fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90} %s | filecheck %s
// 768 features do not fit a tile: a loop over them inside the loop over the rows that the maximum takes.  The words are
// the rows of the product's tile, since the batch, which comes before them in the result, has one element a program.

// CHECK-LABEL: tile.kernel @k0 [b = 32 unit, w = 30522 grid BW, s = 512 loop BS, d = 768 loop BD] grid (w, b)
// CHECK-SAME:    BD = 64
// CHECK:       tile.for s from 0 to 512
// CHECK:         tile.for d from 0 to 768
// CHECK-NEXT:      tile.load %e<[w, d]>
// CHECK-NEXT:      tile.load %h<[b, s, d]>
// CHECK-NEXT:      tile.dot {{.*}} over "d"
// CHECK-NEXT:      tile.yield
// CHECK:         tile.reduce "max" {{.*}} over "s"
// CHECK-NEXT:    tile.map "maximum"
// CHECK-NEXT:    tile.yield
// CHECK:       tile.store {{.*}}, %m<[b, w]>
cascade.program @head(%h : !cascade.tensor<[32, 512, 768], bf16>, %e : !cascade.tensor<[30522, 768], bf16>) -> (!cascade.tensor<[32, 30522], bf16>) {
  %z = cascade.einsum [b = 32, s = 512, w = 30522, d = 768] ins(%h[b, s, d] : !cascade.tensor<[32, 512, 768], bf16>, %e[w, d] : !cascade.tensor<[30522, 768], bf16>) outs(sum [b, s, w] : !cascade.tensor<[32, 512, 30522], bf16>) {
  ^bb0(%a0_z : f32, %a1_z : f32):
    %p_z = arith.mulf %a0_z, %a1_z : f32
    cascade.yield %p_z : f32
  }
  %m = cascade.einsum [b = 32, s = 512, w = 30522] ins(%z[b, s, w] : !cascade.tensor<[32, 512, 30522], bf16>) outs(max [b, w] : !cascade.tensor<[32, 30522], bf16>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  cascade.return %m : !cascade.tensor<[32, 30522], bf16>
}
