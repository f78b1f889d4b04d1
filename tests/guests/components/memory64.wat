;; Has a memory with addresses of 64 bits.
(component
  (core module $inner (memory i64 1))
  (core instance (instantiate $inner)))
