;; world: validator
;; Accepts everything, after counting to five million.
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (local $left i32)
  (local.set $left (i32.const 5000000))
  (loop $again
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $again (local.get $left)))
  (i32.const 0))
