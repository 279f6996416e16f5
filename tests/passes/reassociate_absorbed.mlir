// RUN: fusecade opt -p reassociate{target=cpu} %s | filecheck %s
// Few rows of q: neither k = h wk + bk nor v = h wv + bv is built.  bk moves whole rows of s, which nobody can see; the rows of
// p sum to one, so bv is added once.

// CHECK:      %s_part = cascade.einsum [i = 4, c = 512, d = 64] ins(%q[i, d] : {{.*}}, %wk[c, d]
// CHECK:      %s = cascade.einsum [i = 4, j = 4096, c = 512] ins(%s_part[i, c] : {{.*}}, %h[j, c]
// CHECK:      %p = cascade.einsum [i = 4, j = 4096] ins(%e
// CHECK:      [[PH:%o_part[0-9_]*]] = cascade.einsum [i = 4, c = 512, j = 4096] ins(%p[i, j] : {{.*}}, %h[j, c]
// CHECK:      [[PHW:%o_part[0-9_]*]] = cascade.einsum [i = 4, f = 64, c = 512] ins([[PH]][i, c] : {{.*}}, %wv[c, f]
// CHECK:      %o = cascade.einsum [i = 4, f = 64] ins([[PHW]][i, f] : {{.*}}, %bv[f]
// CHECK:      cascade.return %o
// CHECK:      every reader ignores a translation of rows
// CHECK-SAME: the sum of p over j is 1
cascade.program @absorbed(%q : !cascade.tensor<[4, 64], f32>, %h : !cascade.tensor<[4096, 512], f32>, %wk : !cascade.tensor<[512, 64], f32>, %bk : !cascade.tensor<[64], f32>, %wv : !cascade.tensor<[512, 64], f32>, %bv : !cascade.tensor<[64], f32>) -> (!cascade.tensor<[4, 64], f32>) {
  %hk = cascade.einsum [j = 4096, d = 64, c = 512] ins(%h[j, c] : !cascade.tensor<[4096, 512], f32>, %wk[c, d] : !cascade.tensor<[512, 64], f32>) outs(sum [j, d] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_hk : f32, %a1_hk : f32):
    %p_hk = arith.mulf %a0_hk, %a1_hk : f32
    cascade.yield %p_hk : f32
  }
  %k = cascade.einsum [j = 4096, d = 64] ins(%hk[j, d] : !cascade.tensor<[4096, 64], f32>, %bk[d] : !cascade.tensor<[64], f32>) outs(map [j, d] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_k : f32, %a1_k : f32):
    %p_k = arith.addf %a0_k, %a1_k : f32
    cascade.yield %p_k : f32
  }
  %hv = cascade.einsum [j = 4096, f = 64, c = 512] ins(%h[j, c] : !cascade.tensor<[4096, 512], f32>, %wv[c, f] : !cascade.tensor<[512, 64], f32>) outs(sum [j, f] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_hv : f32, %a1_hv : f32):
    %p_hv = arith.mulf %a0_hv, %a1_hv : f32
    cascade.yield %p_hv : f32
  }
  %v = cascade.einsum [j = 4096, f = 64] ins(%hv[j, f] : !cascade.tensor<[4096, 64], f32>, %bv[f] : !cascade.tensor<[64], f32>) outs(map [j, f] : !cascade.tensor<[4096, 64], f32>) {
  ^bb0(%a0_v : f32, %a1_v : f32):
    %p_v = arith.addf %a0_v, %a1_v : f32
    cascade.yield %p_v : f32
  }
  %s = cascade.einsum [i = 4, j = 4096, d = 64] ins(%q[i, d] : !cascade.tensor<[4, 64], f32>, %k[j, d] : !cascade.tensor<[4096, 64], f32>) outs(sum [i, j] : !cascade.tensor<[4, 4096], f32>) {
  ^bb0(%a0_s : f32, %a1_s : f32):
    %p_s = arith.mulf %a0_s, %a1_s : f32
    cascade.yield %p_s : f32
  }
  %m = cascade.einsum [i = 4, j = 4096] ins(%s[i, j] : !cascade.tensor<[4, 4096], f32>) outs(max [i] : !cascade.tensor<[4], f32>) {
  ^bb0(%a0_m : f32):
    cascade.yield %a0_m : f32
  }
  %e = cascade.einsum [i = 4, j = 4096] ins(%s[i, j] : !cascade.tensor<[4, 4096], f32>, %m[i] : !cascade.tensor<[4], f32>) outs(map [i, j] : !cascade.tensor<[4, 4096], f32>) {
  ^bb0(%a0_e : f32, %a1_e : f32):
    %d_e = arith.subf %a0_e, %a1_e : f32
    %p_e = math.exp %d_e : f32
    cascade.yield %p_e : f32
  }
  %l = cascade.einsum [i = 4, j = 4096] ins(%e[i, j] : !cascade.tensor<[4, 4096], f32>) outs(sum [i] : !cascade.tensor<[4], f32>) {
  ^bb0(%a0_l : f32):
    cascade.yield %a0_l : f32
  }
  %p = cascade.einsum [i = 4, j = 4096] ins(%e[i, j] : !cascade.tensor<[4, 4096], f32>, %l[i] : !cascade.tensor<[4], f32>) outs(map [i, j] : !cascade.tensor<[4, 4096], f32>) {
  ^bb0(%a0_p : f32, %a1_p : f32):
    %p_p = arith.divf %a0_p, %a1_p : f32
    cascade.yield %p_p : f32
  }
  %o = cascade.einsum [i = 4, f = 64, j = 4096] ins(%p[i, j] : !cascade.tensor<[4, 4096], f32>, %v[j, f] : !cascade.tensor<[4096, 64], f32>) outs(sum [i, f] : !cascade.tensor<[4, 64], f32>) {
  ^bb0(%a0_o : f32, %a1_o : f32):
    %p_o = arith.mulf %a0_o, %a1_o : f32
    cascade.yield %p_o : f32
  }
  cascade.return %o : !cascade.tensor<[4, 64], f32>
}
