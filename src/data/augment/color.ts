import { permutation, type Rng } from "../../tensor/index.ts";
import { channelsOf, luma, type Picture } from "../preprocessing/picture.ts";
import type { ColorJitter } from "./augmentation.ts";
import { between } from "./crops.ts";

// All of these are equal to the byte to Pillow's ImageEnhance and ImageOps, and to torchvision on Pillow pictures.

/** Replaces every byte by a table's entry; one table for all channels, or one per channel. */
export function lookedUp(picture: Picture, tables: readonly ArrayLike<number>[]): Picture {
  const { width, height, data } = picture;
  const channels = channelsOf(picture);
  const out = new Uint8ClampedArray(data.length);
  for (let c = 0; c < channels; c++) {
    const table = tables[Math.min(c, tables.length - 1)];
    for (let i = c; i < data.length; i += channels) out[i] = table[data[i]];
  }
  return { width, height, data: out };
}

const bytes = Array.from({ length: 256 }, (_, v) => v);

/** `from + factor·(to − from)` in float32, cut to a byte: outside 0 … 1 the factor leads past the ends. */
function blend(from: number, to: number, factor: number): number {
  const value = Math.fround(from + Math.fround(Math.fround(factor) * (to - from)));
  return value <= 0 ? 0 : value >= 255 ? 255 : Math.trunc(value);
}

/** 0 is black, 1 the picture itself. */
export const withBrightness = (picture: Picture, factor: number): Picture =>
  lookedUp(picture, [bytes.map((v) => blend(0, v, factor))]);

/** 0 is the mean grey, 1 the picture itself. */
export function withContrast(picture: Picture, factor: number): Picture {
  const grey = greyOf(picture);
  let sum = 0;
  for (const v of grey) sum += v;
  const mean = Math.floor(sum / grey.length + 0.5);
  return lookedUp(picture, [bytes.map((v) => blend(mean, v, factor))]);
}

/** 0 is grey, 1 the picture itself. */
export function withSaturation(picture: Picture, factor: number): Picture {
  if (channelsOf(picture) === 1) return picture;
  const { width, height, data } = picture;
  const grey = greyOf(picture);
  const out = new Uint8Array(data.length);
  for (let p = 0, i = 0; p < grey.length; p++)
    for (const end = i + 3; i < end; i++) out[i] = blend(grey[p], data[i], factor);
  return { width, height, data: out };
}

/** 0 is smoothed, 1 the picture itself. */
export function withSharpness(picture: Picture, factor: number): Picture {
  const { width, height, data } = picture;
  const out = smoothed(picture);
  for (let i = 0; i < out.length; i++) out[i] = blend(out[i], data[i], factor);
  return { width, height, data: out };
}

/** Weighs each pixel five times against its eight neighbours; the border stays as it is. */
function smoothed(picture: Picture): Uint8Array {
  const { width, height, data } = picture;
  const channels = channelsOf(picture);
  const row = width * channels;
  const out = Uint8Array.from(data);
  for (let y = 1; y < height - 1; y++)
    for (let i = y * row + channels; i < (y + 1) * row - channels; i++) {
      let sum = 4 * data[i];
      for (const line of [i - row, i, i + row]) sum += data[line - channels] + data[line] + data[line + channels];
      out[i] = Math.floor((2 * sum + 13) / 26);
    }
  return out;
}

/** Turns the colours by this part of the colour circle, −0.5 … 0.5. */
export function withHue(picture: Picture, turn: number): Picture {
  if (channelsOf(picture) === 1) return picture;
  const { width, height, data } = picture;
  const out = new Uint8Array(data.length);
  const shift = Math.trunc(turn * 255);
  for (let i = 0; i < data.length; i += 3) {
    const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
    const most = Math.max(r, g, b);
    const range = most - Math.min(r, g, b);
    const hue = (hueOf(r, g, b, most, range) + shift) & 255;
    writeHsv(out, i, hue, range === 0 ? 0 : Math.trunc(f(range / most) * 255), most);
  }
  return { width, height, data: out };
}

const f = Math.fround;

/** Hue 0 … 255 of a colour whose greatest value is `most`, with `range` between it and the least. */
function hueOf(r: number, g: number, b: number, most: number, range: number): number {
  if (range === 0) return 0;
  const rc = f((most - r) / range);
  const gc = f((most - g) / range);
  const bc = f((most - b) / range);
  const sixth = f(r === most ? bc - gc : g === most ? 2 + rc - bc : 4 + gc - rc);
  return Math.trunc(f((sixth / 6 + 1) % 1) * 255);
}

/** Writes the red, green and blue of a colour given by hue, saturation and value, each 0 … 255. */
function writeHsv(out: Uint8Array, at: number, hue: number, saturation: number, value: number): void {
  const sixth = Math.floor((hue * 6) / 255);
  const part = f((hue * 6) / 255 - sixth);
  const s = f(saturation / 255);
  const low = Math.round(value * (1 - s));
  const falling = Math.round(value * (1 - s * part));
  const rising = Math.round(value * (1 - s * (1 - part)));
  const place = sixth % 6;
  out[at] = place === 0 || place === 5 ? value : place === 1 ? falling : place === 4 ? rising : low;
  out[at + 1] = place === 1 || place === 2 ? value : place === 0 ? rising : place === 3 ? falling : low;
  out[at + 2] = place === 3 || place === 4 ? value : place === 2 ? rising : place === 5 ? falling : low;
}

/** Keeps the upper bits of every byte. */
export const posterized = (picture: Picture, bits: number): Picture =>
  lookedUp(picture, [bytes.map((v) => v & (0xff << (8 - bits)))]);

/** Inverts the bytes from `threshold` up. */
export const solarized = (picture: Picture, threshold: number): Picture =>
  lookedUp(picture, [bytes.map((v) => (v < threshold ? v : 255 - v))]);

/** Stretches each channel so that it reaches from 0 to 255. */
export const autoContrasted = (picture: Picture): Picture =>
  lookedUp(
    picture,
    histograms(picture).map((counts) => {
      const darkest = counts.findIndex((n) => n > 0);
      const brightest = counts.findLastIndex((n) => n > 0);
      if (brightest <= darkest) return bytes;
      const scale = 255 / (brightest - darkest);
      return bytes.map((v) => Math.trunc(v * scale - darkest * scale));
    }),
  );

/** Spreads each channel so that every brightness is about equally frequent. */
export const equalized = (picture: Picture): Picture =>
  lookedUp(
    picture,
    histograms(picture).map((counts) => {
      const used = counts.filter((n) => n > 0);
      const step = Math.floor((used.reduce((a, b) => a + b, 0) - (used.at(-1) ?? 0)) / 255);
      if (used.length <= 1 || step === 0) return bytes;
      let sum = Math.floor(step / 2);
      return bytes.map((v) => {
        const value = Math.floor(sum / step);
        sum += counts[v];
        return value;
      });
    }),
  );

function histograms(picture: Picture): number[][] {
  const channels = channelsOf(picture);
  const counts = Array.from({ length: channels }, () => Array<number>(256).fill(0));
  for (let i = 0; i < picture.data.length; i++) counts[i % channels][picture.data[i]]++;
  return counts;
}

function greyOf(picture: Picture): Uint8Array {
  const { data } = picture;
  if (channelsOf(picture) === 1) return Uint8Array.from(data);
  const grey = new Uint8Array(data.length / 3);
  for (let p = 0, i = 0; p < grey.length; p++, i += 3) grey[p] = luma(data[i], data[i + 1], data[i + 2]);
  return grey;
}

/** Draws the order and strength of the four changes and makes them. */
export function applyColorJitter(picture: Picture, step: ColorJitter, random: Rng): Picture {
  const factor = (strength: number): number => between(random, Math.max(0, 1 - strength), 1 + strength);
  const changes = [
    { strength: step.brightness, change: (p: Picture) => withBrightness(p, factor(step.brightness)) },
    { strength: step.contrast, change: (p: Picture) => withContrast(p, factor(step.contrast)) },
    { strength: step.saturation, change: (p: Picture) => withSaturation(p, factor(step.saturation)) },
    { strength: step.hue, change: (p: Picture) => withHue(p, between(random, -step.hue, step.hue)) },
  ];
  return permutation(changes.length, random).reduce(
    (p, i) => (changes[i].strength > 0 ? changes[i].change(p) : p),
    picture,
  );
}
