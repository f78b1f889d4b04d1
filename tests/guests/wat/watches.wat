;; world: observer
;; Counts the tokens of answers that finished under `finished`, those that were cancelled under
;; `cancelled`, and others under their error's code; and under `prompt` and `chain` the tokens of the
;; prompt and the plugins of the chain. Traps where the answer's model begins with z, loops at y.
;;
;; A summary: model @16, outcome u8 @44 and its error @48, prompt tokens @56, tokens @64, the number
;; of the chain's plugins @100.
(import "gapura:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))
(data (i32.const 1024) "finished")
(data (i32.const 1032) "cancelled")
(data (i32.const 1048) "prompt")
(data (i32.const 1056) "chain")
(func (export "gapura:plugin/completion-observer@0.1.0#completed") (param $of i32)
  (local $letter i32) (local $outcome i32)
  (local.set $letter (i32.load8_u (i32.load offset=16 (local.get $of))))
  (if (i32.eq (local.get $letter) (i32.const 0x7a)) (then (unreachable)))
  (if (i32.eq (local.get $letter) (i32.const 0x79)) (then (loop $again (br $again))))
  (call $add (i32.const 1048) (i32.const 6) (i64.load32_u offset=56 (local.get $of)))
  (call $add (i32.const 1056) (i32.const 5) (i64.load32_u offset=100 (local.get $of)))
  (local.set $outcome (i32.load8_u offset=44 (local.get $of)))
  (if (i32.eqz (local.get $outcome)) (then
    (call $add (i32.const 1024) (i32.const 8) (i64.load32_u offset=64 (local.get $of)))
    (return)))
  (if (i32.eq (local.get $outcome) (i32.const 1)) (then
    (call $add (i32.const 1032) (i32.const 9) (i64.const 1))
    (return)))
  (call $add (i32.load offset=48 (local.get $of)) (i32.load offset=52 (local.get $of))
    (i64.const 1)))
