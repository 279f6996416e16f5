// RUN: fusecade opt -p "fuse{target=sm_90},repair{target=sm_90 lazy=true},schedule{target=sm_90 lazy=true}" %s | filecheck %s
// The running maximum stays until some row exceeds it by 8 (in units of log 2): only then do the accumulators move.

// CHECK:       lag = 8.0
// CHECK:       lazy m stays until exceeded by more than 5.545
// CHECK-LABEL: tile.kernel @k0
// CHECK:       tile.fill 8.0 : f32 -> !tile.tile<[], f32>
// CHECK:       tile.for j from 0 to 4096
// CHECK:         [[M:%[0-9]+]] = tile.reduce "max"
// CHECK-NEXT:    tile.map "add"(
// CHECK-NEXT:    tile.map "gt"([[M]],
// CHECK:         tile.if any
// CHECK-NEXT:      tile.map "maximum"(
// CHECK:           tile.map "exp2"
// CHECK:           tile.yield
// CHECK-NEXT:    }
// CHECK:         tile.dot {{.*}} over "j"
// CHECK-NEXT:    tile.yield
cascade.program @attention(%q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %z = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_z : f32):
    %c_z = arith.constant 0.125 : f32
    %p_z = arith.mulf %a0_z, %c_z : f32
    cascade.yield %p_z : f32
  }
  %m = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%z[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) outs(max [b, i] : !cascade.tensor<[16, 4096], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%z[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %m[b, i] : !cascade.tensor<[16, 4096], f32>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
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
