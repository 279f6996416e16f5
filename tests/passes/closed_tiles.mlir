// RUN: fusecade opt -p "fuse{target=sm_90},repair{target=sm_90},schedule{target=sm_90 skip=always}" %s | filecheck %s
// Which keys a query sees is data: the mask is loaded first, and where it closes a tile nothing else of the step is done,
// nor are keys and values loaded.

// CHECK-LABEL: tile.kernel @k0 [b = 16 unit, i = 4096 grid BI, j = 4096 loop BJ, c = 64 whole, d = 64 whole] grid (b, i)
// CHECK:       tile.load %q<[b, i, d]>
// CHECK:       tile.for j from 0 to 4096
// CHECK-NEXT:    tile.load %t<[i, j]>
// CHECK-NEXT:    tile.if any %t{{.*}} : !tile.tile<[i, j], i1>
// CHECK-NEXT:      tile.load %k<[b, j, d]>
// CHECK-NEXT:      tile.dot {{.*}} over "d"
// CHECK:           tile.map "select"
// CHECK:           tile.load %v<[b, j, c]>
// CHECK-NEXT:      tile.dot {{.*}} over "j"
// CHECK-NEXT:      tile.yield
// CHECK-NEXT:    }
// CHECK-NEXT:    tile.yield
// CHECK:       } attributes {skipped = {j = "t"}}
cascade.program @masked(%t : !cascade.tensor<[4096, 4096], i1>, %q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %z = cascade.einsum [b = 16, i = 4096, j = 4096] ins(%s[b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>, %t[i, j] : !cascade.tensor<[4096, 4096], i1>) outs(map [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_z : f32, %sees : i1):
    %c_z = arith.constant 0.125 : f32
    %p_z = arith.mulf %a0_z, %c_z : f32
    %masked = arith.constant 0xFF800000 : f32
    %s_z = arith.select %sees, %p_z, %masked : f32
    cascade.yield %s_z : f32
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
