;; world: validator
;; Logs 1,000 lines and accepts.
(import "gapura:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(data (i32.const 1024) "flood")
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (local $n i32)
  (loop $again
    (call $log (i32.const 1) (i32.const 1024) (i32.const 5))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
  (i32.const 0))
