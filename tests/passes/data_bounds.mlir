// RUN: fusecade opt -p "fuse{target=sm_90 always=true},derive-online,data-bounds" %s | filecheck %s
// RUN: fusecade opt -p "fuse{target=sm_90 always=true},repair{target=sm_90},schedule{target=sm_90 skip=bounds}" %s | filecheck --check-prefix=TILE %s
// Which keys a query sees is data, and known from two vectors: a kernel ahead finds the first and one past the last of each
// row, once for all of b, and the loop of the other keeps within the least and the greatest of its tile, without a condition.

// CHECK:      cascade.program @k0_bounds(%a: !cascade.tensor<[4096], i64>) -> (!cascade.tensor<[4096], i64>, !cascade.tensor<[4096], i64>)
// CHECK:        %first, %last = cascade.einsum [i = 4096, j = 4096] ins(%a_1[i] : {{.*}}, %a_1[j] : {{.*}}) outs(min [i] : {{.*}}, max [i] :
// CHECK:          [[OPEN:%[a-z_0-9]+]] = arith.cmpi eq
// CHECK:          [[FIRST:%[0-9]+]] = arith.select [[OPEN]]
// CHECK-NEXT:     [[LAST:%[0-9]+]] = arith.select [[OPEN]]
// CHECK-NEXT:     cascade.yield [[FIRST]], [[LAST]] : i64, i64

// TILE-LABEL: tile.kernel @k0_bounds [i = 4096 grid BI
// TILE:         tile.reduce "min"
// TILE:         tile.reduce "max"
// TILE:         tile.store %first_1, %first<[i]>
// TILE-NEXT:    tile.store %last_1, %last<[i]>
// TILE-LABEL: tile.kernel @k0 [b = 16 unit, i = 4096 grid BI, j = 4096 loop BJ
// TILE:         %first_j = tile.reduce "min" %{{[0-9]+}} over "i"
// TILE:         %last_j = tile.reduce "max" %last_1 over "i"
// TILE:         tile.for j from 0 to 4096 within %first_j, %last_j (
// TILE-NOT:       tile.if
// TILE:       } attributes {within = {j = "ieq(a, a)"}}
cascade.program @packed(%a : !cascade.tensor<[4096], i64>, %q : !cascade.tensor<[16, 4096, 64], f32>, %k : !cascade.tensor<[16, 4096, 64], f32>, %v : !cascade.tensor<[16, 4096, 64], f32>) -> (!cascade.tensor<[16, 4096, 64], f32>) {
  %s = cascade.einsum [b = 16, i = 4096, j = 4096, d = 64] ins(%q[b, i, d] : !cascade.tensor<[16, 4096, 64], f32>, %k[b, j, d] : !cascade.tensor<[16, 4096, 64], f32>) outs(sum [b, i, j] : !cascade.tensor<[16, 4096, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %t = cascade.einsum [i = 4096, j = 4096] ins(%a[i] : !cascade.tensor<[4096], i64>, %a[j] : !cascade.tensor<[4096], i64>) outs(map [i, j] : !cascade.tensor<[4096, 4096], i1>) {
  ^bb0(%a0_t : i64, %a1_t : i64):
    %p_t = arith.cmpi eq, %a0_t, %a1_t : i64
    cascade.yield %p_t : i1
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
