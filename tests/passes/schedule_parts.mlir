// RUN: fusecade opt -p fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90} %s | filecheck %s
// Four rows would be four programs: the row is cut into whole tiles, some for each of the parts, whose states are merged.

// CHECK:      tile.kernel @k0_part [{{.*}}[[J:j[0-9]*]] = 1048576 loop [[BJ:BJ[0-9]*]], {{.*}}p = [[SPLIT:SPLIT_J[0-9]*]] unit]
// CHECK-SAME:   [[SPLIT]] = [[PARTS:[0-9]+]],
// CHECK-SAME:   -> (%m: !tile.buffer<{{.}}[[SPLIT]], 4], [4, 1], f32>, %l_a0: !tile.buffer<{{.}}[[SPLIT]], 4], [4, 1], f32>)
// CHECK:        tile.for [[J]] from [[BJ]] * p * (1048576 ceildiv ([[BJ]] * [[SPLIT]])) to min(1048576, [[BJ]] * p * (1048576 ceildiv ([[BJ]] * [[SPLIT]])) + [[BJ]] * (1048576 ceildiv ([[BJ]] * [[SPLIT]])))
// CHECK:        tile.store {{.*}}, %m<[p, i]>
// CHECK:        tile.store {{.*}}, %l_a0<[p, i]>
// CHECK:      tile.kernel @k0_merge [i = 4 grid BI, p = [[PARTS]] whole]
// CHECK:        tile.load %m_parts<[p, i]>
// CHECK-NOT:    tile.for
// CHECK:        tile.map "log"
cascade.program @logsumexp(%x : !cascade.tensor<[4, 1048576], f16>) -> (!cascade.tensor<[4], f32>) {
  %m = cascade.einsum [i = 4, j = 1048576] ins(%x[i, j] : !cascade.tensor<[4, 1048576], f16>) outs(max [i] : !cascade.tensor<[4], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [i = 4, j = 1048576] ins(%x[i, j] : !cascade.tensor<[4, 1048576], f16>, %m[i] : !cascade.tensor<[4], f32>) outs(map [i, j] : !cascade.tensor<[4, 1048576], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %x_e = math.exp %d_e : f32
    cascade.yield %x_e : f32
  }
  %l = cascade.einsum [i = 4, j = 1048576] ins(%e[i, j] : !cascade.tensor<[4, 1048576], f32>) outs(sum [i] : !cascade.tensor<[4], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %o = cascade.einsum [i = 4] ins(%l[i] : !cascade.tensor<[4], f32>, %m[i] : !cascade.tensor<[4], f32>) outs(map [i] : !cascade.tensor<[4], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %g_o = math.log %a0_o : f32
    %s_o = arith.addf %g_o, %a1_o : f32
    cascade.yield %s_o : f32
  }
  cascade.return %o : !cascade.tensor<[4], f32>
}
