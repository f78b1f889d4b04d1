;; world: validator
;; Refuses with 400 and two digits: the last of the time in milliseconds, the last of the monotonic
;; time in milliseconds.
(import "gapura:plugin/clock@0.1.0" "now" (func $now (result i64)))
(import "gapura:plugin/clock@0.1.0" "monotonic" (func $monotonic (result i64)))
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (call $refuse
    (i32.add (i32.const 400) (i32.wrap_i64 (i64.add
      (i64.mul (i64.rem_u (call $now) (i64.const 10)) (i64.const 10))
      (i64.rem_u (i64.div_u (call $monotonic) (i64.const 1000000)) (i64.const 10)))))
    (i32.const 0) (i32.const 0)))
