// RUN: not fusecade opt -p canonicalize %s
// EXPECT-ERROR: use 'canonicalise' instead
