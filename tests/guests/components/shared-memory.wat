;; Has a memory that threads share.
(component
  (core module $inner (memory 1 1 shared))
  (core instance (instantiate $inner)))
